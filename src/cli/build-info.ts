/** Version, engine and platform of this build. */

export interface BuildInfo {
  readonly name: string;
  readonly version: string;
  /** Commit of the build; absent when run from source. */
  readonly revision?: string;
  readonly engine: {readonly name: 'node' | 'bun'; readonly version: string};
  /** Such as `linux/amd64`. */
  readonly platform: string;
}

/** Set by scripts/build.ts. */
declare const BERTH_BUILD: {readonly version: string; readonly revision?: string} | undefined;

const GO_ARCH: Readonly<Record<string, string>> = {x64: 'amd64', arm64: 'arm64'};

export async function buildInfo(): Promise<BuildInfo> {
  const {version, revision} =
    typeof BERTH_BUILD === 'undefined'
      ? {...(await import('../../package.json', {with: {type: 'json'}})).default, revision: undefined}
      : BERTH_BUILD;
  const {bun} = process.versions;
  return {
    name: 'berth',
    version,
    ...(revision === undefined ? {} : {revision}),
    engine: bun === undefined ? {name: 'node', version: process.versions.node} : {name: 'bun', version: bun},
    platform: `${process.platform}/${GO_ARCH[process.arch] ?? process.arch}`,
  };
}

export const userAgent = ({name, version, engine, platform}: BuildInfo): string =>
  `${name}/${version} ${platform} ${engine.name}/${engine.version}`;
