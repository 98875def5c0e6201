/** Limits without root: which need a control group of the user's, and which of its controllers. */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {withoutRoot} from '../../../src/lib/runtime/rootless-spec.ts';
import {createSpec, limitsOf, type Spec} from '../../../src/lib/runtime/spec.ts';
import type {ContainerLimits} from '../../../src/lib/runtime/spec-option-types.ts';
import {is} from '../../support/helpers.ts';

const CONTROLLERS = ['cpu', 'cpuset', 'memory', 'pids'] as const;

/** Every limit, and the controller in whose files the kernel has it. */
const LIMITS: {readonly [K in keyof Required<ContainerLimits>]: readonly [NonNullable<ContainerLimits[K]>, (typeof CONTROLLERS)[number]]} =
  {
    memoryLimit: [64 << 20, 'memory'],
    memoryReservation: [32 << 20, 'memory'],
    memorySwap: [-1, 'memory'],
    cpus: [0.5, 'cpu'],
    cpuShares: [512, 'cpu'],
    cpuQuota: [50_000, 'cpu'],
    cpuPeriod: [100_000, 'cpu'],
    cpusetCpus: ['0', 'cpuset'],
    cpusetMems: ['0', 'cpuset'],
    pidsLimit: [10, 'pids'],
  };

const user = {uid: 0, gid: 0, additionalGids: []};
const host = {hostname: 'machine', files: [], capabilities: [], devices: []};
const specWith = (options: ContainerLimits): Spec =>
  createSpec({cgroupsPath: '/ns/id', image: {}, envFile: [], options: {args: ['true'], ...options}, user, host});
const everyId = {ids: {hasUser: () => true, hasGroup: () => true, single: false}, setsGroups: true};
const placeWith = (...controllers: readonly string[]) => ({
  group: {path: '/user@1.service', controllers: new Set(controllers)},
  path: '/user/id',
});

describe('limits without root', () => {
  for (const [name, [value, controller]] of Object.entries(LIMITS)) {
    const options = {[name]: value};
    it(`${name} takes the controller ${controller}, and no other`, () => {
      const given = withoutRoot(specWith(options), everyId, placeWith(controller)).linux;
      assert.equal(given.cgroupsPath, '/user/id');
      assert.deepEqual(given.resources, {...limitsOf(options), devices: []});
      const others = CONTROLLERS.filter((one) => one !== controller);
      assert.throws(
        () => withoutRoot(specWith(options), everyId, placeWith(...others)),
        (err) => {
          const {message, hint} = err as Error & {hint: string};
          return is('failed_precondition')(err) && message.includes(controller) && hint.includes(`Delegate=${CONTROLLERS.join(' ')}`);
        },
      );
    });
    it(`${name} is refused without a group`, () => {
      assert.throws(() => withoutRoot(specWith(options), everyId), is('failed_precondition'));
    });
  }

  it('a container without limits needs no group, and has one where it can', () => {
    assert.equal(withoutRoot(specWith({}), everyId).linux.cgroupsPath, '');
    assert.equal(withoutRoot(specWith({}), everyId, placeWith()).linux.cgroupsPath, '/user/id');
  });
});
