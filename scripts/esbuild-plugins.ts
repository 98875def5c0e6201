/** Esbuild plugins that keep a module from doing more than berth needs. test/cli/startup.test.ts holds what they gain. */
import {readdirSync, readFileSync} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import type {Plugin} from 'esbuild';

/** Modules of Node that load when one of their functions is first called, or an object of theirs is first read. */
const LATE = ['node:crypto', 'node:net', 'node:os', 'node:tty', 'node:url'];

/** Code that reads `path`. If it is late, `late` is its value, a function or an object, and it is read at the first use. */
function access(path: string, name: string, late: unknown): string {
  if (typeof late === 'function' && /^[a-z]/.test(name)) return `(...args) => ${path}(...args)`;
  if (typeof late === 'object' && late !== null) return `/* @__PURE__ */ new Proxy({}, {get: (_, key) => ${path}[key]})`;
  return `/* @__PURE__ */ (() => ${path})()`;
}

/**
 * Imports single names of Node's modules. A normal import reads all names, which for node:fs loads streams, readline and
 * promises (2 ms). Unused names are dropped by tree shaking. Modules in `LATE` load at their first use: on Bun node:crypto
 * loads streams (2 ms), and node:os takes 0.5 ms. Each importer has names of its own: shared ones would be chunks of their own.
 */
export const namedBuiltins: Plugin = {
  name: 'named-builtins',
  setup(build) {
    const namespace = 'named-builtins';
    build.onResolve({filter: /^node:/}, ({path, kind, importer}) =>
      kind === 'import-statement'
        ? {path, namespace, suffix: `?${relative(build.initialOptions.absWorkingDir!, importer)}`, sideEffects: false}
        : undefined,
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

/**
 * Leaves out two dependencies of proper-lockfile that patch the process. graceful-fs patches node:fs and costs 2 ms, and is
 * not used, because berth passes its own file system. signal-exit replaces process.emit and process.reallyExit, to learn of
 * an exit.
 */
export const withoutPatches: Plugin = {
  name: 'without-patches',
  setup({onResolve, onLoad}) {
    onResolve({filter: /^graceful-fs$/}, () => ({path: 'node:fs', external: true}));
    onResolve({filter: /^signal-exit$/}, ({path}) => ({path, namespace: 'without-patches'}));
    onLoad({filter: /.*/, namespace: 'without-patches'}, () => ({contents: `module.exports = (fn) => process.on('exit', () => fn());`}));
  },
};

/** What undici loads of Node and its own parts, and berth does not use: on Bun they take as long to load as all the rest of it. */
const UNUSED_BY_UNDICI: Readonly<Record<string, string>> = {
  // `connect` and `IncomingMessage` are for its other interfaces.
  'node:http': `module.exports = {maxHeaderSize: 16384, IncomingMessage: class {}};`,
  './client-h2.js': `module.exports = () => { throw new Error('HTTP/2 is not in this build'); };`,
};

/** Leaves out HTTP/2, which no request uses, and node:http, of which undici reads one constant. */
export const slimUndici: Plugin = {
  name: 'slim-undici',
  setup({onResolve, onLoad}) {
    const namespace = 'slim-undici';
    onResolve({filter: /^(node:http|\.\/client-h2\.js)$/}, ({path, importer}) =>
      /\/undici\/lib\//.test(importer) ? {path, namespace} : undefined,
    );
    onLoad({filter: /.*/, namespace}, ({path}) => ({contents: UNUSED_BY_UNDICI[path]!}));
  },
};

/** Paths of the modules below `directory` that others there import dynamically. */
function lateModules(directory: string): readonly string[] {
  const files = readdirSync(directory, {recursive: true, encoding: 'utf8'}).filter((name) => name.endsWith('.ts'));
  return files.flatMap((name) => {
    const file = join(directory, name);
    return [...readFileSync(file, 'utf8').matchAll(/\bimport\('(\.[^']+)'\)/g)].map(([, path]) => join(dirname(file), path!));
  });
}

/**
 * Keeps in few chunks what every command loads. The bundler puts modules into one chunk only where the same entry points need them, and each
 * module that is imported dynamically is one, with needs of its own: 44 chunks for a listing, of which Node resolves each import. Here every module
 * that is loaded late needs all of the core of its part, which is loaded before or with it anyway.
 *
 * @param cores absolute paths of the modules that are the core, by the module, or the directory of modules, that needs it; the first that fits counts
 */
export const sharedCore = (source: string, cores: Readonly<Record<string, readonly string[]>>): Plugin => ({
  name: 'shared-core',
  setup(build) {
    const late = new Set(lateModules(source));
    build.onLoad({filter: /\.ts$/}, ({path}) => {
      if (!late.has(path)) return undefined;
      const [, core = []] = Object.entries(cores).find(([of]) => path === of || path.startsWith(`${of}/`)) ?? [];
      const needs = core.filter((one) => one !== path).map((one) => `import ${JSON.stringify(one)};`);
      return {contents: [readFileSync(path, 'utf8'), ...needs].join('\n'), loader: 'ts'};
    });
  },
});
