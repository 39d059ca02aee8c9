/**
 * Pipes for the hand-over between keyholders. The supervisor holds both ends open so that they can be inherited, and
 * never reads: what passes is not its business (PROTOCOL 2.6).
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'

export interface HandoverPipe {
  /** For the keyholder that ends. */
  readonly writeEnd: number
  /** For the one that comes; its own description, because a reader makes it non-blocking. */
  readonly readEnd: number
  close(): void
}

export function handoverPipe(runDir: string): HandoverPipe {
  const name = join(runDir, `pipe-${randomBytes(8).toString('hex')}`)
  execFileSync('mkfifo', ['-m', '600', name])
  try {
    const writeEnd = openSync(name, 'r+') // read and write: opening one end alone would wait for the other
    const readEnd = openSync(name, 'r')
    const close = () => {
      closeSync(writeEnd)
      closeSync(readEnd)
    }
    return { writeEnd, readEnd, close }
  } finally {
    rmSync(name)
  }
}

/** The inheritance of a keyholder that has no predecessor: a length of zero. */
export function nothingToInherit(runDir: string): HandoverPipe {
  const pipe = handoverPipe(runDir)
  writeSync(pipe.writeEnd, new Uint8Array(4))
  return pipe
}
