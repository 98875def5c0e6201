/**
 * Esbuild plugins that let parts of the program load when they are first used, or not at all, without a word of it in the
 * source.
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

/** Node's modules that load when one of their functions is first called, or something of their objects first read. */
const LATE = ['node:crypto', 'node:os'];

/** Code that reads `path`; only when it is needed, where `late` is its value, and a function or an object. */
function access(path: string, name: string, late: unknown): string {
  if (typeof late === 'function' && /^[a-z]/.test(name)) return `(...args) => ${path}(...args)`;
  if (typeof late === 'object' && late !== null) return `/* @__PURE__ */ new Proxy({}, {get: (_, key) => ${path}[key]})`;
  return `/* @__PURE__ */ (() => ${path})()`;
}

/**
 * Takes from Node's modules no more than is used. `import` of one reads all that it has, and of node:fs that loads the
 * streams, readline and promises, 2 ms; here each name is read by itself, and unused ones are shaken off. Some are
 * late altogether: on Bun node:crypto brings the streams along, 2 ms that most commands need not spend, and node:os takes 0.5 ms.
 */
export const sparingBuiltins: Plugin = {
  name: 'sparing-builtins',
  setup(build) {
    const namespace = 'sparing-builtins';
    build.onResolve({filter: /^node:/}, ({path, kind}) =>
      kind === 'import-statement' ? {path, namespace, sideEffects: false} : undefined,
    );
    build.onLoad({filter: /.*/, namespace}, ({path}) => {
      const builtin = `process.getBuiltinModule(${JSON.stringify(path)})`;
      const module = process.getBuiltinModule(path)!;
      const isLate = LATE.includes(path);
      const descriptors = Object.entries(Object.getOwnPropertyDescriptors(module));
      const names = descriptors.filter(([name]) => name !== 'default' && /^[A-Za-z_]\w*$/.test(name));
      const contents = names.map(
        ([name, {value}]) =>
          `const $${name} = ${access(`${builtin}.${name}`, name, isLate ? value : undefined)}; export {$${name} as ${name}};`,
      );
      return {
        contents: [...contents, `export default ${access(builtin, 'default', isLate ? module : undefined)};`].join('\n'),
        loader: 'js',
      };
    });
  },
};
