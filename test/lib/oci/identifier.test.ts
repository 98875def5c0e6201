import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {isReservedLabel, parseLabelArgs, validateIdentifier, validateLabels} from '../../../src/lib/oci/identifier.ts';

const invalid = (message: string | RegExp) => ({code: 'invalid_argument', message});

describe('validateIdentifier', () => {
  for (const text of [
    'default',
    'Default',
    'default-default',
    'containerd.io',
    'foo.boo',
    'swarmkit.docker.io',
    '0912341234',
    'task.0.0123456789',
    'container.system-75-f19a.00',
    'underscores_are_allowed',
    'version',
    'a'.repeat(76),
  ])
    it(`takes ${text}`, () => assert.doesNotThrow(() => validateIdentifier(text)));

  for (const text of [
    '.foo..foo',
    'foo/foo',
    'foo/..',
    'foo..foo',
    'foo.-boo',
    '-foo.boo',
    'foo.boo-',
    'but__only_tasteful_underscores',
    'zn--e9.org',
    'default--default',
    '..',
    'föö',
    'foo\n',
    '__proto__',
  ])
    it(`refuses ${JSON.stringify(text)}`, () =>
      assert.throws(
        () => validateIdentifier(text),
        invalid(`identifier ${JSON.stringify(text)} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument`),
      ));

  it('refuses an empty one, and one of 77 bytes', () => {
    assert.throws(() => validateIdentifier(''), invalid('identifier must not be empty: invalid argument'));
    assert.throws(
      () => validateIdentifier('a'.repeat(77)),
      invalid(`identifier "${'a'.repeat(77)}" greater than maximum length (76 characters): invalid argument`),
    );
    assert.throws(() => validateIdentifier('é'.repeat(39)), invalid(/greater than maximum length/));
  });
});

describe('validateLabels', () => {
  for (const [key, value, ok] of [
    [65, 4096 - 65, true],
    [65, 4096 - 64, false],
    [1, 4095, true],
    [4096, 0, true],
    [4096, 1, false],
  ] as const)
    it(`${ok ? 'takes' : 'refuses'} a key of ${key} bytes with a value of ${value}`, () => {
      const check = () => validateLabels({fine: 'x', ['k'.repeat(key)]: 'v'.repeat(value)});
      if (ok) return assert.doesNotThrow(check);
      const shown = 'k'.repeat(Math.min(key, 64));
      assert.throws(
        check,
        invalid(
          `label key and value length (${key + value} bytes) greater than maximum size (4096 bytes), key: ${shown}: invalid argument`,
        ),
      );
    });

  it('counts bytes, and takes any character', () => {
    validateLabels({'a b/c\n=': '\0é', '': ''});
    assert.throws(() => validateLabels({k: 'é'.repeat(2048)}), invalid(/4097 bytes/));
  });
});

describe('isReservedLabel', () => {
  for (const [key, reserved] of [
    ['containerd.io/gc.root', true],
    ['containerd.io/', true],
    ['io.cri-containerd', true],
    ['io.cri-containerdfoo', true],
    ['io.cri-containerd.kind', true],
    ['containerd.io', false],
    ['io.containerd.x', false],
    ['my.containerd.io/x', false],
  ] as const)
    it(`${key} is ${reserved ? '' : 'not '}reserved`, () => assert.equal(isReservedLabel(key), reserved));
});

describe('parseLabelArgs', () => {
  it('splits at the first "=", and lets the last of equal keys win', () => {
    assert.deepEqual(parseLabelArgs(['a=b', 'c=d=e', 'f=', 'a=g'], {empty: 'true'}), {a: 'g', c: 'd=e', f: ''});
    assert.deepEqual(parseLabelArgs([], {empty: 'true'}), {});
  });

  it('gives a word without "=" the value true, or none', () => {
    assert.deepEqual(parseLabelArgs(['a'], {empty: 'true'}), {a: 'true'});
    assert.deepEqual(parseLabelArgs(['a'], {empty: ''}), {a: ''});
  });

  it('keeps a key that is called __proto__', () => {
    const labels = parseLabelArgs(['__proto__=x'], {empty: ''});
    assert.deepEqual(Object.entries(labels), [['__proto__', 'x']]);
    assert.equal(Object.getPrototypeOf(labels), Object.prototype);
  });

  it('refuses a word without a key, and a label over the limit', () => {
    assert.throws(() => parseLabelArgs(['=x'], {empty: ''}), invalid('label "=x": the key must not be empty: invalid argument'));
    assert.throws(() => parseLabelArgs([''], {empty: 'true'}), invalid('label "": the key must not be empty: invalid argument'));
    assert.throws(() => parseLabelArgs([`k=${'v'.repeat(4096)}`], {empty: ''}), invalid(/greater than maximum size/));
  });
});
