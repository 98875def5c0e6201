/** CVE-2026-26960 (node-tar before 7.5.8): a chain of links, each harmless alone, leads outside. */
import {it} from 'node:test';
import {dir, file, link, symlink} from '../support/tartest.ts';
import {harmless, refused} from './tar-attack.ts';

const CHAIN = [dir('a'), dir('a/b'), dir('a/b/c'), symlink('../..', 'a/b/c/up'), symlink('c/up/../..', 'a/b/escape')];

it('a hard link at the end of a chain of links is resolved inside', (t) => {
  refused(t, (outside) => [[...CHAIN, link(`a/b/escape${outside}/canary`, 'stolen')]], 'invalid_argument');
  refused(t, (outside) => [CHAIN, [link(`a/b/escape${outside}/canary`, 'stolen')]], 'invalid_argument');
  refused(t, () => [[...CHAIN, link('a/b/escape/../outside/canary', 'stolen')]], 'invalid_argument');
});

it('a file at the end of a chain of links is created inside', (t) => {
  harmless(t, (outside) => [[...CHAIN, file(`a/b/escape${outside}/canary`, 'written')]]);
  harmless(t, () => [CHAIN, [file('a/b/escape/../outside/canary', 'written'), file('a/b/escape/outside/dir/x', 'written')]]);
});
