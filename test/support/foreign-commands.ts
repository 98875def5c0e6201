/** Commands and flags of programs that people know: from their help, recursively; docker's, which is no test's need, from a list. */
import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {promisify} from 'node:util';

export interface ForeignFlag {
  /** With dashes; all mean the same. */
  readonly names: readonly string[];
  /** `undefined` if it may be given with and without one. */
  readonly takesValue: boolean | undefined;
}

export interface ForeignCommand {
  /** Empty for the program itself: its flags stand before the command. */
  readonly line: readonly string[];
  /** Other names of its last word. */
  readonly aliases: readonly string[];
  readonly flags: readonly ForeignFlag[];
}

const words = (text: string): readonly string[] => text.split(/\s+/).filter(Boolean);

/** Reads `-a, --all`, `--name NAME` (cobra), `--name value, -n value` (urfave), `-n,--name=` (our list). */
function parseFlag(text: string): ForeignFlag {
  const forms = text.split(/, ?/);
  const names = forms.map((form) => {
    const [name] = /^--?[a-zA-Z][\w.-]*/.exec(form) ?? [];
    assert.ok(name, `flag ${text}`);
    return name;
  });
  const rests = forms.map((form, i) => form.slice(names[i]!.length));
  return {names, takesValue: rests.some((rest) => rest.includes('[=')) ? undefined : rests.some((rest) => rest !== '')};
}

/** The commands and flags that a help of cobra or urfave lists. */
function parseHelp(help: string): {readonly commands: readonly (readonly string[])[]; readonly flags: readonly ForeignFlag[]} {
  const commands: string[][] = [];
  const flags: ForeignFlag[] = [];
  let heading = '';
  for (const line of help.split('\n')) {
    heading = /^([A-Z][A-Za-z ]*):\s*$/.exec(line)?.[1]?.toLowerCase() ?? heading;
    const [, text] = /^ +((?:[a-z][\w-]*|-\S.*?)(?:, \S+(?: value)?)*)(?: {2,}|\s*$)/.exec(line) ?? [];
    if (text === undefined) continue;
    if (text.startsWith('-')) flags.push(parseFlag(text));
    else if (/commands$/.test(heading)) commands.push(text.split(', '));
  }
  return {commands, flags};
}

/** @param isRefused whether the command, and so all below it, is not ours: their help is not asked for */
export async function commandsOf(program: string, isRefused: (line: readonly string[]) => boolean): Promise<readonly ForeignCommand[]> {
  const visit = async (line: readonly string[], aliases: readonly string[]): Promise<readonly ForeignCommand[]> => {
    if (isRefused(line)) return [{line, aliases, flags: []}];
    const {stdout} = await promisify(execFile)(program, [...line, '--help']);
    const {commands, flags} = parseHelp(stdout);
    const below: (readonly ForeignCommand[])[] = [];
    for (const [name, ...others] of commands)
      if (name !== 'help' && (name !== 'completion' || program === 'ctr')) below.push(await visit([...line, name!], others));
    return [{line, aliases, flags}, ...below.flat()];
  };
  return visit([], []);
}

const CREATE = `--add-host= --annotation= -a,--attach= --blkio-weight= --blkio-weight-device= --cap-add= --cap-drop= --cgroup-parent= --cgroupns=
  --cidfile= --cpu-count= --cpu-percent= --cpu-period= --cpu-quota= --cpu-rt-period= --cpu-rt-runtime= -c,--cpu-shares= --cpus= --cpuset-cpus=
  --cpuset-mems= --device= --device-cgroup-rule= --device-read-bps= --device-read-iops= --device-write-bps= --device-write-iops=
  --disable-content-trust --dns= --dns-opt= --dns-option= --dns-search= --domainname= --entrypoint= -e,--env= --env-file= --expose= --gpus=
  --group-add= --health-cmd= --health-interval= --health-retries= --health-start-interval= --health-start-period= --health-timeout=
  -h,--hostname= --init -i,--interactive --io-maxbandwidth= --io-maxiops= --ip= --ip6= --ipc= --isolation= --kernel-memory= -l,--label=
  --label-file= --link= --link-local-ip= --log-driver= --log-opt= --mac-address= -m,--memory= --memory-reservation= --memory-swap=
  --memory-swappiness= --mount= --name= --net= --net-alias= --network= --network-alias= --no-healthcheck --oom-kill-disable --oom-score-adj=
  --pid= --pids-limit= --platform= --privileged -p,--publish= -P,--publish-all --pull= -q,--quiet --read-only --restart= --rm --runtime=
  --security-opt= --shm-size= --stop-signal= --stop-timeout= --storage-opt= --sysctl= --tmpfs= -t,--tty --ulimit= --use-api-socket -u,--user=
  --userns= --uts= -v,--volume= --volume-driver= --volumes-from= -w,--workdir=`;

/** `docker --help` of 29, and that of each command. */
const DOCKER: Readonly<Record<string, string>> = {
  '': '--config= -c,--context= -D,--debug -H,--host= -l,--log-level= --tls --tlscacert= --tlscert= --tlskey= --tlsverify',
  attach: '--detach-keys= --no-stdin --sig-proxy',
  commit: '-a,--author= -c,--change= -m,--message= -p,--pause --no-pause',
  'container ls': '-a,--all -f,--filter= --format= -n,--last= -l,--latest --no-trunc -q,--quiet -s,--size',
  cp: '-a,--archive -L,--follow-link -q,--quiet',
  create: CREATE,
  diff: '',
  events: '-f,--filter= --format= --since= --until=',
  exec: '-d,--detach --detach-keys= -e,--env= --env-file= -i,--interactive --privileged -t,--tty -u,--user= -w,--workdir=',
  'image inspect': '-f,--format= --platform=',
  'image ls': '-a,--all --digests -f,--filter= --format= --no-trunc -q,--quiet --tree',
  'image prune': '-a,--all --filter= -f,--force',
  info: '-f,--format=',
  inspect: '-f,--format= -s,--size --type=',
  kill: '-s,--signal=',
  login: '-p,--password= --password-stdin -u,--username=',
  logout: '',
  logs: '--details -f,--follow --since= -n,--tail= -t,--timestamps --until=',
  pause: '',
  ps: '-a,--all -f,--filter= --format= -n,--last= -l,--latest --no-trunc -q,--quiet -s,--size',
  pull: '-a,--all-tags --disable-content-trust --platform= -q,--quiet',
  push: '-a,--all-tags --disable-content-trust --platform= -q,--quiet',
  restart: '-s,--signal= -t,--timeout= --time=',
  rm: '-f,--force -l,--link -v,--volumes',
  rmi: '-f,--force --no-prune --platform=',
  run: `${CREATE} -d,--detach --detach-keys= --sig-proxy`,
  start: '-a,--attach --checkpoint= --checkpoint-dir= --detach-keys= -i,--interactive',
  stats: '-a,--all --format= --no-stream --no-trunc',
  stop: '-s,--signal= -t,--timeout= --time=',
  tag: '',
  top: '',
  unpause: '',
  update: `--blkio-weight= --cpu-period= --cpu-quota= --cpu-rt-period= --cpu-rt-runtime= -c,--cpu-shares= --cpus= --cpuset-cpus= --cpuset-mems=
    -m,--memory= --memory-reservation= --memory-swap= --pids-limit= --restart=`,
  version: '-f,--format=',
  'volume create': '-d,--driver= --label= -o,--opt=',
  'volume inspect': '-f,--format=',
  'volume ls': '--cluster -f,--filter= --format= -q,--quiet',
  'volume prune': '-a,--all --filter= -f,--force',
  'volume rm': '-f,--force',
  wait: '',
};

/** The same commands below `container` and `image`, and those that are not here. */
const DOCKER_WITHOUT_FLAGS: Readonly<Record<string, string>> = {
  '': `bake build builder buildx compose config container context export history image import load logs manifest network node plugin port rename
    save search secret service stack swarm system trust volume`,
  container: `attach commit cp create diff exec export inspect kill logs port prune rename restart rm run start stats stop top unpause update
    wait`,
  image: 'build history import load pull push rm save tag',
  volume: 'update',
};

export const DOCKER_COMMANDS: readonly ForeignCommand[] = [
  ...Object.entries(DOCKER).map(([line, flags]) => ({line: words(line), aliases: [], flags: words(flags).map(parseFlag)})),
  ...Object.entries(DOCKER_WITHOUT_FLAGS).flatMap(([topic, verbs]) =>
    words(verbs).map((verb) => ({line: [...words(topic), verb], aliases: [], flags: []})),
  ),
];
