import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import type {Platform} from '../../../src/lib/oci/descriptor.ts';
import {ALL_PLATFORMS, formatPlatform, hostPlatform, matcher, normalizePlatform, parsePlatform} from '../../../src/lib/oci/platform.ts';

const HOST = hostPlatform();
const words = (text: string): readonly string[] => text.split(' ').filter((word) => word !== '');

describe('parsePlatform', () => {
  const host = {os: HOST.os, architecture: HOST.architecture, ...(HOST.variant === undefined ? {} : {variant: HOST.variant})};
  const ROWS: readonly (readonly [text: string, expected: Platform, formatted: string])[] = [
    ['linux/amd64', {os: 'linux', architecture: 'amd64'}, 'linux/amd64'],
    ['Linux/x86_64', {os: 'linux', architecture: 'amd64'}, 'linux/amd64'],
    ['linux/x86-64', {os: 'linux', architecture: 'amd64'}, 'linux/amd64'],
    ['linux/amd64/v1', {os: 'linux', architecture: 'amd64'}, 'linux/amd64'],
    ['linux/amd64/v3', {os: 'linux', architecture: 'amd64', variant: 'v3'}, 'linux/amd64/v3'],
    ['linux/aarch64', {os: 'linux', architecture: 'arm64'}, 'linux/arm64'],
    ['linux/arm64', {os: 'linux', architecture: 'arm64'}, 'linux/arm64'],
    ['linux/arm64/v8', {os: 'linux', architecture: 'arm64', variant: 'v8'}, 'linux/arm64/v8'],
    ['linux/arm64/v9.2', {os: 'linux', architecture: 'arm64', variant: 'v9.2'}, 'linux/arm64/v9.2'],
    ['linux/arm', {os: 'linux', architecture: 'arm'}, 'linux/arm'],
    ['linux/armhf', {os: 'linux', architecture: 'arm'}, 'linux/arm'],
    ['linux/armel', {os: 'linux', architecture: 'arm', variant: 'v6'}, 'linux/arm/v6'],
    ['linux/arm/v7', {os: 'linux', architecture: 'arm', variant: 'v7'}, 'linux/arm/v7'],
    ['linux/arm/6', {os: 'linux', architecture: 'arm', variant: 'v6'}, 'linux/arm/v6'],
    ['linux/i386', {os: 'linux', architecture: '386'}, 'linux/386'],
    ['linux/made-up', {os: 'linux', architecture: 'made-up'}, 'linux/made-up'],
    ['arm', {os: HOST.os, architecture: 'arm'}, `${HOST.os}/arm`],
    ['armel', {os: HOST.os, architecture: 'arm', variant: 'v6'}, `${HOST.os}/arm/v6`],
    ['Aarch64', {os: HOST.os, architecture: 'arm64'}, `${HOST.os}/arm64`],
    ['s390x', {os: HOST.os, architecture: 's390x'}, `${HOST.os}/s390x`],
    ['linux', {...host, os: 'linux'}, `linux/${HOST.architecture}`],
    ['macOS', {...host, os: 'darwin'}, `darwin/${HOST.architecture}`],
    ['windows()', {...host, os: 'windows'}, `windows/${HOST.architecture}`],
    ['windows(10.0.17763)/amd64', {os: 'windows', architecture: 'amd64', 'os.version': '10.0.17763'}, 'windows/amd64'],
    [
      'windows(10.0.17763%2Bbuild.42+win32k)/amd64',
      {os: 'windows', architecture: 'amd64', 'os.version': '10.0.17763+build.42', 'os.features': ['win32k']},
      'windows/amd64',
    ],
    ['linux(+gpu+simd)/amd64', {os: 'linux', architecture: 'amd64', 'os.features': ['gpu', 'simd']}, 'linux/amd64'],
  ];
  for (const [text, expected, formatted] of ROWS) {
    it(`reads ${text}`, () => {
      const platform = parsePlatform(text);
      assert.deepEqual(platform, expected);
      assert.equal(formatPlatform(platform), formatted);
      assert.equal(formatPlatform(parsePlatform(formatted)), formatted);
    });
  }

  for (const text of [
    '',
    '/linux/arm',
    'linux/arm/',
    'linux /arm',
    'linux/&arm',
    'linux/arm/foo/bar',
    '*',
    'linux/*',
    'linus',
    '__proto__',
    'linux(%zz)/amd64',
    'linux(%ff)/amd64',
    'linux(+)/amd64',
    'linux(++a)/amd64',
    'linux(/amd64',
  ]) {
    it(`refuses ${JSON.stringify(text)}`, () => {
      assert.throws(
        () => parsePlatform(text),
        (err: Error & {code: string}) => err.code === 'invalid_argument' && err.message.startsWith(`platform ${JSON.stringify(text)}: `),
      );
    });
  }
});

describe('normalizePlatform', () => {
  for (const [from, to] of [
    [
      {os: 'macOS', architecture: 'AArch64', variant: 'v8'},
      {os: 'darwin', architecture: 'arm64'},
    ],
    [
      {os: 'linux', architecture: 'arm64', variant: '9.0'},
      {os: 'linux', architecture: 'arm64', variant: 'v9'},
    ],
    [
      {os: 'linux', architecture: 'arm'},
      {os: 'linux', architecture: 'arm', variant: 'v7'},
    ],
    [
      {os: 'linux', architecture: 'i386', variant: 'x'},
      {os: 'linux', architecture: '386'},
    ],
    [
      {os: 'linux', architecture: 'amd64', 'os.features': ['b', 'a', 'b']},
      {os: 'linux', architecture: 'amd64', 'os.features': ['a', 'b']},
    ],
    [
      {os: '', architecture: ''},
      {os: '', architecture: ''},
    ],
  ] as const)
    it(`makes ${JSON.stringify(from)} ${JSON.stringify(to)}`, () => assert.deepEqual(normalizePlatform(from), to));

  it('leaves this machine as it is, save for the variant that goes without saying', () => {
    assert.deepEqual(normalizePlatform(HOST), HOST);
    assert.equal(formatPlatform({os: '', architecture: 'amd64'}), 'unknown');
  });
});

const V8 = Array.from({length: 9}, (_, i) => `linux/arm64/v8.${i + 1}`);
const V9 = Array.from({length: 7}, (_, i) => `linux/arm64/v9.${i + 1}`);
const ARM = 'linux/arm linux/arm/v5 linux/arm/v6 linux/arm/v7 linux/arm/v8';
const ALL = [
  ...words(`linux/amd64 linux/amd64/v1 linux/amd64/v2 linux/amd64/v3 linux/amd64/v4 linux/386 ${ARM} linux/arm/v4 linux/arm/v9`),
  ...words('linux/arm64 linux/arm64/v8 linux/arm64/v8.10 linux/arm64/v9 linux/arm64/v9.0 linux/riscv64 unknown/unknown'),
  ...words('windows/amd64 windows/arm windows(10.0.17763)/amd64 windows(10.0.19041)/amd64'),
  ...V8,
  ...V9,
];

describe('a matcher for one platform', () => {
  // Of all platforms above, exactly those that it takes.
  const FALLBACKS: readonly (readonly [platform: string, matches: readonly string[]])[] = [
    ['linux/amd64', words('linux/amd64 linux/amd64/v1 linux/386')],
    ['linux/amd64/v2', words('linux/amd64 linux/amd64/v1 linux/amd64/v2 linux/386')],
    ['linux/amd64/v3', words('linux/amd64 linux/amd64/v1 linux/amd64/v2 linux/amd64/v3 linux/386')],
    ['linux/386', ['linux/386']],
    ['linux/riscv64', ['linux/riscv64']],
    ['windows/amd64', words('windows/amd64 windows(10.0.17763)/amd64 windows(10.0.19041)/amd64')],
    ['windows(10.0.17763)/amd64', words('windows/amd64 windows(10.0.17763)/amd64')],
    ['linux/arm/v8', words(ARM)],
    ['linux/arm/v7', words('linux/arm linux/arm/v5 linux/arm/v6 linux/arm/v7')],
    ['linux/arm', words('linux/arm linux/arm/v5 linux/arm/v6 linux/arm/v7')],
    ['linux/arm/v6', words('linux/arm/v5 linux/arm/v6')],
    ['linux/arm/v5', ['linux/arm/v5']],
    ['linux/arm/v4', ['linux/arm/v4']],
    ['linux/arm64', words(`${ARM} linux/arm64 linux/arm64/v8`)],
    ['linux/arm64/v8.1', words(`${ARM} linux/arm64 linux/arm64/v8 linux/arm64/v8.1`)],
    ['linux/arm64/v9', [...words(`${ARM} linux/arm64 linux/arm64/v8 linux/arm64/v9 linux/arm64/v9.0`), ...V8.slice(0, 5)]],
    ['linux/arm64/v9.6', [...words(`${ARM} linux/arm64 linux/arm64/v8 linux/arm64/v9 linux/arm64/v9.0`), ...V8, ...V9.slice(0, 6)]],
    ['linux/arm64/v9.7', [...words(`${ARM} linux/arm64 linux/arm64/v8 linux/arm64/v9 linux/arm64/v9.0`), ...V8, ...V9]],
    ['linux/arm64/v8.9', [...words(`${ARM} linux/arm64 linux/arm64/v8`), ...V8]],
    ['linux/arm64/v8.10', ['linux/arm64/v8.10']],
  ];
  for (const [text, expected] of FALLBACKS) {
    it(`${text} takes what that machine can run`, () => {
      const one = matcher([parsePlatform(text)]);
      assert.deepEqual(ALL.filter((other) => one.match(parsePlatform(other))).sort(), [...expected].sort());
    });
  }

  const STRICT: readonly (readonly [platform: string, matches: readonly string[]])[] = [
    ['linux/amd64', words('linux/amd64 linux/amd64/v1')],
    ['linux/386', ['linux/386']],
    ['windows(10.0.17763)/amd64', words('windows/amd64 windows(10.0.17763)/amd64')],
    ['linux/arm/v8', ['linux/arm/v8']],
    ['linux/arm/v7', words('linux/arm linux/arm/v7')],
    ['linux/arm/v4', ['linux/arm/v4']],
    ['linux/arm64', words('linux/arm64 linux/arm64/v8')],
    ['linux/arm64/v8.1', ['linux/arm64/v8.1']],
    ['linux/arm64/v9', words('linux/arm64/v9 linux/arm64/v9.0')],
    ['linux/arm64/v9.5', ['linux/arm64/v9.5']],
  ];
  for (const [text, expected] of STRICT) {
    it(`${text}, strictly, takes nothing else`, () => {
      const one = matcher([parsePlatform(text)], {strict: true});
      assert.deepEqual(ALL.filter((other) => one.match(parsePlatform(other))).sort(), [...expected].sort());
    });
  }

  // As written here, from the best to the worst; sorting brings any order back to this one.
  const ORDERS: readonly (readonly [platform: string, order: readonly string[]])[] = [
    ['linux/amd64/v3', words('linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386 linux/arm64')],
    ['linux/arm/v7', words('linux/arm/v7 linux/arm/v6 linux/arm/v5 linux/amd64')],
    ['linux/arm64', words('linux/arm64/v8 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5 linux/arm/v4')],
    ['linux/arm64/v9.1', words('linux/arm64/v9.1 linux/arm64/v9 linux/arm64/v8.6 linux/arm64/v8.1 linux/arm64 linux/arm/v8 linux/amd64')],
    ['linux(+f1+f2)/amd64', words('linux(+f1+f2)/amd64 linux(+f1)/amd64 linux/amd64 linux(+f3)/amd64 linux/arm64')],
    ['linux/amd64', words('linux/amd64 linux/386 linux(+other)/amd64 windows/amd64')],
  ];
  for (const [text, order] of ORDERS) {
    it(`${text} prefers the nearest`, () => {
      const {less} = matcher([parsePlatform(text)]);
      const platforms = order.map(parsePlatform);
      assert.deepEqual([...platforms].reverse().sort(less), platforms);
      assert.deepEqual([...platforms].sort(less), platforms);
    });
  }

  it('prefers none of two equal ones', () => {
    const {less} = matcher([parsePlatform('linux/arm64')]);
    assert.equal(less(parsePlatform('linux/arm64'), parsePlatform('linux/arm64/v8')), 0);
    assert.equal(less(parsePlatform('linux/s390x'), parsePlatform('windows/amd64')), 0);
  });

  it('takes no image that needs a feature which is not offered, save win32k', () => {
    const offers = (features: string[]): Platform => ({os: 'linux', architecture: 'amd64', 'os.features': features});
    assert.ok(matcher([offers(['a', 'b'])]).match(offers(['b'])));
    assert.ok(!matcher([offers(['a'])]).match(offers(['a', 'b'])));
    assert.ok(!matcher([{os: 'linux', architecture: 'amd64'}]).match(offers(['a'])));
    const windows = {os: 'windows', architecture: 'amd64'};
    assert.ok(matcher([windows]).match({...windows, 'os.features': ['win32k']}));
    assert.ok(!matcher([windows]).match({...windows, 'os.features': ['other']}));
    assert.ok(!matcher([offers(['a'])]).match(offers(['win32k'])));
  });

  // Host build, image build, whether it runs there.
  const BUILDS: readonly (readonly [host: string, image: string, runs: boolean])[] = [
    ['10.0.17763', '10.0.17763.1', true],
    ['10.0.17763', '10.0.17134', false],
    ['10.0.20348', '10.0.20348', true],
    ['10.0.20348', '10.0.17763', false],
    ['10.0.22621', '10.0.20348', true],
    ['10.0.26100', '10.0.20348', true],
    ['10.0.26100', '10.0.25398', true],
    ['10.0.26200', '10.0.26100', true],
    ['10.0.26200', '10.0.20348', false],
    ['10.0.26100', '10.0.26200', false],
    ['10.0.26100', '6.3.26100', false],
    ['10.0.26100', '10.1.26100', false],
    ['10.0.26100', '6.0.26100', false],
    ['10.0.26100', 'rubbish', false],
    ['rubbish', '10.0.26100', true],
  ];
  for (const [host, image, runs] of BUILDS) {
    it(`Windows ${host} ${runs ? 'runs' : 'does not run'} ${image}`, () => {
      const windows = (version: string): Platform => ({os: 'windows', architecture: 'amd64', 'os.version': version});
      assert.equal(matcher([windows(host)]).match(windows(image)), runs);
    });
  }
});

describe('a matcher for several platforms, and for all', () => {
  it('takes each of them exactly, the first named first', () => {
    const {match, less} = matcher(words('linux/arm64 linux/amd64').map(parsePlatform));
    const taken = words('linux/386 linux/amd64 linux/arm/v7 linux/arm64/v8').map(parsePlatform).filter(match).sort(less);
    assert.deepEqual(taken.map(formatPlatform), ['linux/arm64/v8', 'linux/amd64']);
  });

  it('needs at least one', () => {
    assert.throws(() => matcher([]), {code: 'invalid_argument'});
  });

  it('takes all in the order that they have', () => {
    const platforms = ALL.map(parsePlatform);
    assert.deepEqual(platforms.filter(ALL_PLATFORMS.match).sort(ALL_PLATFORMS.less), platforms);
  });
});
