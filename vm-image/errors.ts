/** What stops a build, sorted by what its reader does next. Each message is one sentence with that next step. */
const exitCodes = {
  /** A file is not what the lock says, or the lock is not what the other locks say. */
  lock: 10,
  architecture: 20,
  /** A program or package that the build starts from is not there. */
  missing: 21,
  usage: 30,
  unreachable: 40,
  /** No archive has a locked package any more. */
  vanished: 41,
  space: 42,
  /** The two builds of a reproduction differ. */
  different: 50,
} as const
export type Stop = keyof typeof exitCodes

export class ImageError extends Error {
  readonly stop: Stop
  readonly exitCode: number
  constructor(stop: Stop, message: string) {
    super(message)
    this.name = 'ImageError'
    this.stop = stop
    this.exitCode = exitCodes[stop]
  }
}

/** An error of the file system that has a next step of its own; any other is passed on. */
export function explained(error: unknown): unknown {
  const { code, path } = (error ?? {}) as NodeJS.ErrnoException
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new ImageError(
      'space',
      `No space is left${path === undefined ? '' : ` for ${path}`}: free about 3 GiB (or set TMPDIR and XDG_CACHE_HOME to another disk), then run the same command again.`,
    )
  }
  return error
}
