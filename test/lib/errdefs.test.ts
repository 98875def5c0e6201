import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {getSystemErrorName} from 'node:util';
import {
  CLASSES,
  CODES,
  type Code,
  codeOf,
  ERRNOS,
  ErrdefsError,
  exitStatus,
  fromErrno,
  fromExitStatus,
  fromGRPC,
  fromHTTPStatus,
  fromJSON,
  hasCode,
  isErrdefs,
  toGRPC,
  toHTTPStatus,
  toJSON,
  wrap,
} from '../../src/lib/errdefs.ts';
import {Store} from '../../src/lib/store/store.ts';
import {ctrHere} from '../cli/run-in-process.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {digestOf, imageRecord} from '../support/records.ts';

const failure = (code: Code): ErrdefsError => new ErrdefsError(code, 'thing "x"', {hint: 'try y', details: {n: 1}});

describe('every class', () => {
  for (const code of CODES) {
    it(`${code}: exit status, gRPC code with its message, and JSON lead back to it`, () => {
      const err = failure(code);
      assert.equal(err.message, `thing "x": ${CLASSES[code].text}`);
      assert.equal(codeOf(err), code);
      assert.equal(fromExitStatus(exitStatus(err)), code);
      assert.equal(fromGRPC(toGRPC(code), err.message), code);
      assert.equal(fromGRPC(toGRPC(code), CLASSES[code].text), code);
      const json = JSON.parse(JSON.stringify(toJSON(err)));
      assert.deepEqual(json, {kind: code, code: exitStatus(err), message: err.message, hint: 'try y', details: {n: 1}});
      assert.deepEqual(toJSON(fromJSON(json)), json);
      assert.ok(isErrdefs(fromJSON(json)));
    });

    it(`${code}: keeps class, hint, details and cause when something is added to it`, () => {
      const err = failure(code);
      const outer = wrap('unable to act', err);
      assert.equal(outer.message, `unable to act: thing "x": ${CLASSES[code].text}`);
      assert.deepEqual([outer.code, outer.hint, outer.details, outer.cause], [code, 'try y', {n: 1}, err]);
      assert.ok(hasCode(outer, code));
    });
  }

  it('has an exit status of its own, none of 0, 2, 125, 126, 127', () => {
    const statuses = CODES.map((code) => CLASSES[code].exit);
    assert.equal(new Set(statuses).size, CODES.length);
    for (const status of statuses) assert.ok(status > 0 && status < 256 && ![2, 125, 126, 127].includes(status), String(status));
  });

  it('has a gRPC code of the standard; without its message code 9 is failed precondition', () => {
    for (const code of CODES) assert.ok(toGRPC(code) >= 1 && toGRPC(code) <= 16, code);
    assert.deepEqual(
      CODES.filter((code) => toGRPC(code) === 9),
      ['failed_precondition', 'conflict', 'not_modified'],
    );
    assert.equal(fromGRPC(9, 'something else'), 'failed_precondition');
    assert.equal(fromGRPC(0), 'unknown');
    assert.equal(fromGRPC(99, 'not found'), 'unknown');
  });

  it('comes back from its HTTP status, save where several share one', () => {
    const shared: Partial<Record<Code, Code>> = {
      already_exists: 'conflict',
      aborted: 'conflict',
      // A server that is broken.
      unknown: 'unavailable',
      internal: 'unavailable',
      data_loss: 'unavailable',
    };
    for (const code of CODES) assert.equal(fromHTTPStatus(toHTTPStatus(code)), shared[code] ?? code, code);
  });

  it('writes its text once', () => {
    assert.equal(new ErrdefsError('not_found', '').message, 'not found');
    assert.equal(new ErrdefsError('not_found', 'not found').message, 'not found');
    assert.equal(new ErrdefsError('not_found', 'image "x": not found').message, 'image "x": not found');
    assert.equal(new ErrdefsError('not_found', 'image not found').message, 'image not found: not found');
  });
});

describe('HTTP statuses', () => {
  const ROWS: Readonly<Record<number, Code>> = {
    304: 'not_modified',
    400: 'invalid_argument',
    401: 'unauthenticated',
    403: 'permission_denied',
    404: 'not_found',
    405: 'not_implemented',
    408: 'deadline_exceeded',
    409: 'conflict',
    410: 'not_found',
    412: 'failed_precondition',
    413: 'resource_exhausted',
    416: 'out_of_range',
    429: 'resource_exhausted',
    499: 'canceled',
    501: 'not_implemented',
    502: 'unavailable',
    503: 'unavailable',
    504: 'deadline_exceeded',
    507: 'resource_exhausted',
  };
  it('have a class, each of them', () => {
    for (let status = 100; status < 600; status++) {
      const rest = status < 300 ? 'unknown' : status < 400 ? 'failed_precondition' : status < 500 ? 'invalid_argument' : 'unavailable';
      assert.equal(fromHTTPStatus(status), ROWS[status] ?? rest, String(status));
    }
  });
});

describe('errno', () => {
  for (const errno of ERRNOS) {
    it(`${errno} has a class, keeps its cause, and names its object`, () => {
      const cause = Object.assign(new Error(`${errno}: words`), {code: errno, syscall: 'open', path: '/p'});
      const err = fromErrno(cause, 'image "x"');
      assert.ok(isErrdefs(err));
      assert.notEqual(err.code, 'unknown');
      assert.ok(err.message.startsWith('image "x": '), err.message);
      assert.deepEqual(err.details, {errno, syscall: 'open', path: '/p'});
      assert.equal(err.cause, cause);
    });
  }

  for (const [errno, name] of [
    [117, 'EUCLEAN'],
    [122, 'EDQUOT'],
  ] as const)
    it(`${name} has its class although Node has no name for it`, () => {
      assert.equal(getSystemErrorName(-errno), `Unknown system error -${errno}`);
      const err = Object.assign(new Error(name), {code: getSystemErrorName(-errno), errno: -errno, syscall: 'open', path: '/p'});
      const named = Object.assign(new Error(name), {code: name, syscall: 'open', path: '/p'});
      assert.equal((fromErrno(err, 'image "x"') as Error).message, (fromErrno(named, 'image "x"') as Error).message);
    });

  const ROWS: readonly (readonly [string, Code, string])[] = [
    ['ENOENT', 'not_found', 'image "x": not found'],
    ['EEXIST', 'already_exists', 'image "x": already exists'],
    ['EACCES', 'permission_denied', 'image "x": EACCES (open /p): permission denied'],
    ['EROFS', 'permission_denied', 'image "x": EROFS (open /p): permission denied'],
    ['ENOSPC', 'resource_exhausted', 'image "x": ENOSPC (open /p): resource exhausted'],
    ['EDQUOT', 'resource_exhausted', 'image "x": EDQUOT (open /p): resource exhausted'],
    ['ENOTEMPTY', 'failed_precondition', 'image "x": ENOTEMPTY (open /p): failed precondition'],
    ['ENOSYS', 'not_implemented', 'image "x": ENOSYS (open /p): not implemented'],
    ['EIO', 'data_loss', 'image "x": EIO (open /p): data loss'],
    ['ECONNREFUSED', 'unavailable', 'image "x": ECONNREFUSED (open /p): unavailable'],
    ['ENOTFOUND', 'unavailable', 'image "x": ENOTFOUND (open /p): unavailable'],
    ['ETIMEDOUT', 'deadline_exceeded', 'image "x": ETIMEDOUT (open /p): deadline exceeded'],
    ['ECANCELED', 'canceled', 'image "x": ECANCELED (open /p): canceled'],
  ];
  for (const [errno, code, message] of ROWS) {
    it(`${errno} is ${code}`, () => {
      const err = fromErrno(Object.assign(new Error(errno), {code: errno, syscall: 'open', path: '/p'}), 'image "x"');
      assert.deepEqual([codeOf(err), (err as Error).message], [code, message]);
    });
  }

  it('that is not in the table is unknown, and stays the cause', () => {
    const cause = Object.assign(new Error('EBADF: bad file descriptor'), {code: 'EBADF'});
    const err = fromErrno(cause, 'image "x"');
    assert.ok(isErrdefs(err));
    assert.deepEqual([err.code, err.cause], ['unknown', cause]);
  });

  it('leaves bugs and errors with a class as they are', () => {
    const bug = new TypeError('x is undefined');
    assert.equal(fromErrno(bug, 'image "x"'), bug);
    const err = failure('conflict');
    assert.equal(fromErrno(err, 'image "x"'), err);
    assert.equal(fromErrno(undefined, 'image "x"'), undefined);
  });
});

describe('resolve', async () => {
  const own = (code: Code, cause?: unknown): ErrdefsError => new ErrdefsError(code, 'x', {cause});
  const plain = (cause?: unknown): Error => new Error('plain', {cause});
  const joined = (...errors: unknown[]): Error => new AggregateError(errors, 'joined');
  // Queries make other instances of one module, as a second installed copy would.
  const load = (query: string): Promise<typeof import('../../src/lib/errdefs.ts')> =>
    import(new URL(`../../src/lib/errdefs.ts?${query}`, import.meta.url).href);
  const copy = await load('copy');
  const loop = plain();
  loop.cause = joined(loop);

  const ROWS: readonly (readonly [name: string, err: unknown, expected: Code])[] = [
    ['nothing', undefined, 'unknown'],
    ['null', null, 'unknown'],
    ['a string', 'not found', 'unknown'],
    ['a plain error', plain(), 'unknown'],
    ['its own class', own('data_loss'), 'data_loss'],
    ['a cause', plain(own('not_found')), 'not_found'],
    ['a cause of a cause', plain(plain(own('not_found'))), 'not_found'],
    ['the outer of two', own('invalid_argument', own('not_found')), 'invalid_argument'],
    ['the outer of two, with plain ones between', plain(own('invalid_argument', plain(own('not_found')))), 'invalid_argument'],
    ['unknown as the outer one', own('unknown', own('not_found')), 'unknown'],
    ['the first of joined ones', joined(own('conflict'), own('not_found')), 'conflict'],
    ['the first joined one that has a class', joined(plain(), own('invalid_argument')), 'invalid_argument'],
    ['the depth of the first joined one before the second', joined(plain(own('unauthenticated')), own('not_modified')), 'unauthenticated'],
    ['joined ones without a class', joined(plain(), plain()), 'unknown'],
    ['the cause before what is joined', Object.assign(joined(own('conflict')), {cause: own('aborted')}), 'aborted'],
    ['an abort', new DOMException('stop', 'AbortError'), 'canceled'],
    ['a timeout', new DOMException('late', 'TimeoutError'), 'deadline_exceeded'],
    ['an abort as the cause', plain(AbortSignal.abort().reason), 'canceled'],
    ['a class around an abort', own('unavailable', AbortSignal.abort().reason), 'unavailable'],
    ['an error that is its own cause', loop, 'unknown'],
    ['errors that are no list', Object.assign(plain(own('internal')), {errors: {field: 'bad'}}), 'internal'],
    ['an error of another copy of this module', new copy.ErrdefsError('out_of_range', 'x'), 'out_of_range'],
    ['something marked with a class that there is not', Object.assign(own('aborted'), {code: 'toString'}), 'unknown'],
  ];
  for (const [name, err, expected] of ROWS) {
    it(`${expected} for ${name}`, () => {
      assert.equal(codeOf(err), expected);
      assert.equal(exitStatus(err), CLASSES[expected].exit);
      assert.equal(toJSON(err).kind, expected);
    });
  }

  it('recognises errors of another copy of this module, and that copy ours', () => {
    assert.notEqual(copy.ErrdefsError, ErrdefsError);
    assert.ok(isErrdefs(new copy.ErrdefsError('aborted', 'x')));
    assert.ok(copy.isErrdefs(new ErrdefsError('aborted', 'x')));
    assert.equal(wrap('y', new copy.ErrdefsError('aborted', 'x', {hint: 'h'})).hint, 'h');
  });
});

describe('wrap', () => {
  it('leaves a bug a bug, with itself as the cause', () => {
    const bug = new TypeError('x is undefined');
    const err = wrap('unable to act', bug);
    assert.deepEqual([err.code, err.cause, err.message], ['unknown', bug, 'unable to act: x is undefined: unknown']);
  });

  it('gives an abort and a timeout their class', () => {
    const {reason} = AbortSignal.abort();
    assert.equal(wrap('pull', reason).message, `pull: ${reason.message}: canceled`);
    assert.equal(wrap('pull', new DOMException('took 5 s', 'TimeoutError')).message, 'pull: took 5 s: deadline exceeded');
  });

  it('takes what is no error', () => {
    assert.equal(wrap('pull', 'stop').message, 'pull: stop: unknown');
  });
});

describe('docs/EXIT-STATUS.md', () => {
  const root = join(import.meta.dirname, '../..');
  const page = readFileSync(join(root, 'docs/EXIT-STATUS.md'), 'utf8');

  it('has the JSON that a command prints', async (t) => {
    const place = {root: temporaryDirectory(t), state: temporaryDirectory(t)};
    const store = new Store({root: place.root, lockTimeoutMs: 1000});
    await store.update('an image elsewhere', (tx) => {
      tx.namespace('foo').images.put(imageRecord('docker.io/library/redis:7', digestOf('x')));
    });
    const {stderr} = await ctrHere(place, ['images', 'inspect', 'redis:7', '--json']);
    assert.ok(page.includes(`\n${stderr}`), stderr);
  });

  it('is what scripts/exit-status-page.ts prints', () => {
    assert.equal(page, execFileSync(process.execPath, [join(root, 'scripts/exit-status-page.ts')], {encoding: 'utf8'}));
  });

  it('has every class with its status, every errno, and the statuses of a container', () => {
    for (const code of CODES) assert.ok(page.includes(`\n| ${CLASSES[code].exit} | \`${code}\` | `), code);
    for (const errno of ERRNOS) assert.match(page, new RegExp(`[ |]${errno}[ |]`));
    for (const status of [125, 126, 127]) assert.ok(page.includes(`\n| ${status} | `), String(status));
  });
});
