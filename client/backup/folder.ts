/**
 * Where backups lie: a folder with `000001.manifest` onwards and `objects/`. A file has its final name only when it is
 * whole and on the disk, and a manifest is written after everything that it names, so a run that was cut off leaves
 * nothing but leftovers, which the next run removes. Nothing that has a final name is ever changed or deleted.
 */
import { createReadStream } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { Malformed, Unavailable } from '../../attestation/errors.ts'
import { MANIFEST_CAP, numberOfManifest } from './manifest.ts'

const PART = '.part'

export class BackupFolder {
  readonly path: string
  constructor(path: string) {
    this.path = path
  }

  /** Makes the folder where there is none, and takes away what an interrupted run left. */
  async prepare(): Promise<void> {
    await explained(this.path, mkdir(join(this.path, 'objects'), { recursive: true, mode: 0o700 }))
    for (const folder of ['.', 'objects']) {
      for (const name of await readdir(join(this.path, folder))) {
        if (name.endsWith(PART)) await rm(join(this.path, folder, name), { force: true })
      }
    }
  }

  /** Numbers of the manifests that are there, ascending. Throws Malformed where there is no such folder. */
  async numbers(): Promise<number[]> {
    const names = await explained(this.path, readdir(this.path))
    return names.flatMap(name => numberOfManifest(name) ?? []).toSorted((a, b) => a - b)
  }

  /** Null where there is no such file. Throws Malformed above `cap` bytes. */
  async read(name: string, cap = MANIFEST_CAP): Promise<Uint8Array | null> {
    const path = join(this.path, name)
    try {
      const { size } = await stat(path)
      if (size > cap) throw new Malformed(`${path}: ${size} bytes, expected at most ${cap}`, 'data')
      return new Uint8Array(await readFile(path))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw error
    }
  }

  stream(name: string): AsyncIterable<Uint8Array> {
    return createReadStream(join(this.path, name))
  }

  /** Whole and on the disk, or not there. */
  async write(name: string, bytes: Uint8Array): Promise<void> {
    const path = join(this.path, name)
    const part = join(dirname(path), `.${basename(path)}${PART}`)
    const file = await explained(part, open(part, 'w', 0o600))
    try {
      await explained(part, file.writeFile(bytes))
      await explained(part, file.sync())
    } finally {
      await file.close()
    }
    await rename(part, path)
    const folder = await open(dirname(path), 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  }
}

async function explained<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT') throw new Malformed(`${path} does not exist`, 'data')
    if (code === 'ENOSPC')
      throw new Unavailable(`${path}: no space left; make room and start again, nothing is lost`, 60)
    if (typeof code === 'string') throw new Malformed(`${path}: ${code}`, 'data')
    throw error
  }
}
