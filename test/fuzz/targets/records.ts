/** Damaged records of the store. */
import {
  parseContainer,
  parseContent,
  parseImage,
  parseIngest,
  parseLease,
  parseNamespace,
  parseSnapshot,
} from '../../../src/lib/store/parse-records.ts';
import type {Target} from '../target.ts';

const PARSERS = [parseNamespace, parseImage, parseContent, parseSnapshot, parseLease, parseIngest, parseContainer];

const dated = {createdAt: '2026-11-24T08:00:00.000Z', updatedAt: '2026-11-24T08:00:00.000Z'};
const digest = `sha256:${'6'.repeat(64)}`;
const json = (value: object): Buffer => Buffer.from(JSON.stringify({version: 1, ...value}));

export const target: Target = {
  name: 'records',
  seeds: [
    json({name: 'ci', labels: {team: 'infra'}, ...dated}),
    json({name: 'a/b:1', target: {mediaType: 'x', digest, size: 1, annotations: {a: 'b'}}, labels: {}, ...dated}),
    json({digest, size: 5, labels: {'containerd.io/gc.ref.content.m.0': digest}, ...dated}),
    json({snapshotter: 'overlayfs', key: 'k', kind: 'committed', parent: 'p', layer: 'l', labels: {}, ...dated}),
    json({id: 'l', labels: {}, expiresAt: dated.createdAt, content: [digest], layers: ['l'], snapshots: ['overlayfs/k'], ...dated}),
    json({ref: 'r', namespace: 'n', total: 9, startedAt: dated.createdAt}),
    json({
      id: 'c',
      image: '',
      labels: {},
      runtime: {name: 'io.containerd.runc.v2'},
      snapshotter: 's',
      snapshotKey: 'k',
      spec: {},
      ...dated,
    }),
  ],
  tokens: ['{', '}', '[', ']', '"', ',', 'null', '1e999', '-1', '"version":', '"__proto__":', '"labels":', '2', '""', '{}'],
  sources: ['/store/parse-records.ts'],
  refuses: ['data_loss', 'failed_precondition'],
  run(bytes) {
    let value: unknown;
    try {
      value = JSON.parse(bytes.toString());
    } catch {
      return; // the store's reader says so before a record is looked at
    }
    const errors: unknown[] = [];
    for (const parse of PARSERS) {
      try {
        parse(value, 'record');
      } catch (err) {
        errors.push(err);
      }
    }
    const bug = errors.find((err) => !(err instanceof Error && 'code' in err && target.refuses.includes(err.code as never)));
    if (bug !== undefined) throw bug;
    if (errors.length === PARSERS.length) throw errors[0];
  },
};
