/**
 * Esbuild plugins that let parts of the program load when they are first used, without a word of it in the source.
 * test/cli/startup.test.ts holds what they gain.
 */
import {readFileSync} from 'node:fs';
import type {Plugin} from 'esbuild';

const REQUIRE = /^(?:const|var) (\w+) = ((?:\w+\()?require\("[^"]+"\)\)?);$/gm;

/** A stand-in for a module. Its target is a function, so that a module that is one can be called. */
const LAZY = `module.exports = (load) => {
  let value;
  const get = () => (value ??= load());
  return new Proxy(function () {}, {
    get: (_, key) => get()[key],
    has: (_, key) => key in get(),
    ownKeys: () => Reflect.ownKeys(get()),
    getOwnPropertyDescriptor: (_, key) => Object.getOwnPropertyDescriptor(get(), key),
    apply: (_, self, args) => Reflect.apply(get(), self, args),
    construct: (_, args) => Reflect.construct(get(), args),
  });
};`;

/**
 * Makes @oclif/core load its own parts when they are first touched. As published, asking it for its flags or its parser
 * runs all of it: help, plugins, spinners. Each top-level `const x_1 = require("…")` of its modules becomes a stand-in;
 * nothing else is changed, so what it does stays what it is.
 */
export const lazyOclif: Plugin = {
  name: 'lazy-oclif',
  setup(build) {
    build.onResolve({filter: /^berth:lazy$/}, ({path}) => ({path, namespace: 'lazy'}));
    build.onLoad({filter: /.*/, namespace: 'lazy'}, () => ({contents: LAZY, loader: 'js'}));
    build.onLoad({filter: /\/@oclif\/core\/lib\/.*\.js$/}, ({path}) => {
      const source = readFileSync(path, 'utf8');
      const lazy = source.replace(REQUIRE, (_, name, load) => `const ${name} = __lazy(() => ${load});`);
      // At the end of a line that is there, so that the lines of stacks stay right.
      return {contents: lazy.replace('\n', ' const __lazy = require("berth:lazy");\n'), loader: 'js'};
    });
  },
};

/**
 * Makes node:crypto load at the first call of one of its functions: on Bun it brings the streams along, 2 ms that most
 * commands need not spend.
 */
export const lazyCrypto: Plugin = {
  name: 'lazy-crypto',
  setup(build) {
    const functions = Object.entries(process.getBuiltinModule('node:crypto')).filter(
      ([name, value]) => typeof value === 'function' && /^[a-z]/.test(name),
    );
    const contents = functions.map(
      ([name]) => `export const ${name} = (...args) => process.getBuiltinModule('node:crypto').${name}(...args);`,
    );
    build.onResolve({filter: /^node:crypto$/}, ({kind}) =>
      kind === 'import-statement' ? {path: 'node:crypto', namespace: 'lazy-crypto', sideEffects: false} : undefined,
    );
    build.onLoad({filter: /.*/, namespace: 'lazy-crypto'}, () => ({contents: contents.join('\n'), loader: 'js'}));
  },
};
