/** Makes a store mount layers from loop devices, on machines that can mount them from files. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {probeErofs} from '../../src/lib/client/erofs-probe.ts';
import {hasFreeLoopDevice} from '../../src/lib/runtime/verify-loop-devices.ts';
import {requiresProgram, requiresRoot, type Scope, type Skippable, temporaryDirectory} from './helpers.ts';

/** True when the test may go on: layers can be indexed, and mounted from loop devices. */
export async function requiresLoopDevices(t: Skippable): Promise<boolean> {
  if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount', 'losetup')) return false;
  if (await hasFreeLoopDevice()) return true;
  t.skip('needs loop devices');
  return false;
}

/** A state directory (by default a new one) that says of this machine that it mounts EROFS images only from loop devices. */
export function stateOnLoops(scope: Scope, state = temporaryDirectory(scope, 'berth-state-')): string {
  probeErofs(state, state);
  const name = readdirSync(state, {recursive: true, encoding: 'utf8'}).find((path) => path.endsWith('erofs.json'))!;
  const file = join(state, name);
  const known = JSON.parse(readFileSync(file, 'utf8')) as {readonly filesystems: object};
  const says = Object.keys(known.filesystems).map((filesystem) => [filesystem, {backing: 'loop', reason: 'a test says so'}]);
  writeFileSync(file, JSON.stringify({...known, filesystems: Object.fromEntries(says)}));
  return state;
}

/** Loop devices of files below a directory. */
export function loopsBelow(dir: string): readonly string[] {
  return readdirSync('/sys/block').filter((name) => {
    try {
      return readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').startsWith(`${dir}/`);
    } catch {
      return false; // another file's device, an unused one, or one that is gone
    }
  });
}

/** Waits: the kernel removes a device a moment after the last process of its mount namespace has ended. */
export async function assertNoLoops(dir: string): Promise<void> {
  for (let waited = 0; loopsBelow(dir).length > 0; waited += 20) {
    assert.ok(waited < 60_000, `loop devices left of ${dir}: ${loopsBelow(dir)}`);
    await delay(20);
  }
}
