/**
 * Cool-downs of registries that all processes with one state directory share: a file each in `cool-downs/`, replaced as a whole. A lost or
 * damaged one costs a request that is refused.
 */
import {existsSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {writeAtomic} from '../../fs/durable.ts';
import {digestOf} from '../../oci/hash.ts';
import type {CoolDown, CoolDowns} from '../../remotes/types.ts';
import {runtimeStatePath} from '../../store/layout.ts';

/**
 * @param state path of the state directory
 * @param assertState returns it after a check, or throws where it may be another user's; then nothing is shared
 */
export function sharedCoolDowns(state: string, assertState: () => string): CoolDowns {
  const own = new Map<string, CoolDown>();
  const fileOf = (origin: string): string => join(runtimeStatePath.coolDowns(assertState()), `${digestOf(origin).slice(-32)}.json`);
  return {
    find: (origin) => {
      const mine = own.get(origin);
      // The check makes a missing directory; nothing is to be made before there is something to share.
      if (!existsSync(runtimeStatePath.coolDowns(state))) return mine;
      const shared = attempt(() => parse(readFileSync(fileOf(origin), 'utf8'), origin));
      return mine === undefined || (shared !== undefined && shared.end > mine.end) ? shared : mine;
    },
    put: (origin, coolDown) => {
      own.set(origin, coolDown);
      attempt(() => writeAtomic(fileOf(origin), `${JSON.stringify({origin, ...coolDown})}\n`, {sync: false}));
    },
  };
}

/** Without the file a request is refused once more, and nothing else is lost. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

function parse(text: string, expected: string): CoolDown | undefined {
  const {origin, end, askedAt, status} = JSON.parse(text) as {[Name in keyof CoolDown | 'origin']?: unknown};
  return origin === expected && typeof end === 'number' && typeof askedAt === 'number' && typeof status === 'number'
    ? {end, askedAt, status}
    : undefined;
}
