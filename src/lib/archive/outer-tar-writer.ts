/** Writes the tar around an image. */
import {type Pack, pack} from 'tar-stream';
import {ErrdefsError} from '../errdefs.ts';

/** A file to write, or a directory where its name ends with a slash. */
export interface NewEntry {
  readonly name: string;
  readonly mode: number;
  /** Bytes. */
  readonly size: number;
  /** Absent for a directory. */
  readonly open?: () => AsyncIterable<Uint8Array>;
}

/**
 * Writes a tar whose bytes depend on nothing but the entries: time 0, owner 0:0.
 *
 * @throws data_loss a file has other than the announced number of bytes
 */
export async function* writeTar(entries: Iterable<NewEntry>): AsyncGenerator<Uint8Array> {
  const tar = pack();
  const fill = async (): Promise<void> => {
    for (const {name, mode, size, open} of entries) {
      const type = open === undefined ? 'directory' : 'file';
      const done = Promise.withResolvers<void>();
      done.promise.catch(() => {}); // awaited below, unless the source fails first
      const sink = tar.entry({name, mode, size, type, mtime: new Date(0), uid: 0, gid: 0}, (err) => {
        if (err) done.reject(err);
        else done.resolve();
      });
      sink.on('error', () => {}); // the archive passes it on
      if (open !== undefined) {
        let written = 0;
        for await (const chunk of open()) {
          written += chunk.length;
          if (written > size) break;
          if (!sink.write(chunk)) await drained(sink);
          if (tar.destroyed) return;
        }
        if (written !== size)
          throw new ErrdefsError('data_loss', `${name} has ${written > size ? 'more than' : `${written} B instead of`} ${size} B`);
        sink.end(undefined);
      }
      await done.promise;
    }
    tar.finalize();
  };
  // A failure of a source ends the archive with that error.
  fill().catch((err: unknown) => tar.destroy(err as Error));
  yield* tar as AsyncIterable<Uint8Array>;
}

const drained = (sink: ReturnType<Pack['entry']>): Promise<void> =>
  new Promise((resolve) => {
    const end = (): void => {
      sink.off('drain', end);
      sink.off('close', end);
      resolve();
    };
    if (sink.destroyed) end();
    sink.on('drain', end);
    sink.on('close', end);
  });
