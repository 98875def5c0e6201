/** All benches, in the order in which they run and stand on the page. */

import {run} from './container-starts.ts';
import {copy} from './copy.ts';
import {hugeLayer, layers} from './layer-growth.ts';
import {locks} from './locks.ts';
import {profile} from './profile-pull.ts';
import {pull} from './pull.ts';
import {push} from './push.ts';
import type {Report} from './report.ts';
import {rootless} from './rootless.ts';
import {scale} from './scale.ts';
import {startup} from './startup.ts';
import type {Site} from './workplace.ts';

interface Bench {
  readonly title: string;
  run(site: Site): Promise<Report>;
  /** Runs only when it is asked for by name. */
  readonly onDemand?: boolean;
}

export type BenchName = 'pull' | 'push' | 'copy' | 'run' | 'rootless' | 'startup' | 'scale' | 'locks' | 'layers' | 'layers-4g' | 'profile';

export const BENCHES: Readonly<Record<BenchName, Bench>> = {
  pull: {title: 'Pull', run: pull},
  push: {title: 'Push', run: push},
  copy: {title: 'Copy', run: copy},
  run: {title: 'Run', run},
  rootless: {title: 'Without root', run: rootless},
  startup: {title: 'Start-up', run: startup},
  scale: {title: 'Scale', run: scale},
  locks: {title: 'Locks', run: locks},
  layers: {title: 'Layers, files, bytes', run: layers},
  profile: {title: 'Where a pull’s time goes', run: profile},
  'layers-4g': {title: 'A layer of 4 GB', run: hugeLayer, onDemand: true},
};

export const isBench = (name: string): name is BenchName => Object.hasOwn(BENCHES, name);
