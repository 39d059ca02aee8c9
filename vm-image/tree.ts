/**
 * A tree of files as it will be in an image: root's throughout, times fixed, order fixed. What the build machine's
 * folders, users, umask and clock are never reaches it.
 */
import { readFileSync } from 'node:fs'

export type Content = Readonly<{ from: string }> | Uint8Array
export type Entry =
  | Readonly<{ kind: 'folder'; mode: number }>
  | Readonly<{ kind: 'file'; mode: number; content: Content }>
  | Readonly<{ kind: 'link'; target: string }>
  | Readonly<{ kind: 'device'; mode: number; major: number; minor: number }>

export const contentOf = (content: Content): Uint8Array =>
  content instanceof Uint8Array ? content : readFileSync(content.from)

/** Two entries with the same content from the same place are one file with two names. */
export const sameContent = (content: Content): unknown => (content instanceof Uint8Array ? content : content.from)

export class FileTree {
  readonly #entries = new Map<string, Entry>()

  /** @param path absolute; the folders above come into being. */
  add(path: string, entry: Entry): void {
    const parts = path.split('/').slice(1)
    if (!path.startsWith('/') || parts.some(part => part === '' || part === '.' || part === '..')) {
      throw new RangeError(`not a path in an image: ${path}`)
    }
    for (let depth = 1; depth < parts.length; depth++) {
      const above = `/${parts.slice(0, depth).join('/')}`
      const there = this.#entries.get(above)
      if (there === undefined) this.#entries.set(above, { kind: 'folder', mode: 0o755 })
      else if (there.kind !== 'folder') throw new RangeError(`${above} is no folder, and ${path} lies below it`)
    }
    const there = this.#entries.get(path)
    if (there !== undefined && !(there.kind === 'folder' && entry.kind === 'folder')) {
      throw new RangeError(`${path} stands twice in the image`)
    }
    this.#entries.set(path, entry)
  }

  has(path: string): boolean {
    return this.#entries.has(path)
  }

  folder(path: string, mode = 0o755): void {
    this.add(path, { kind: 'folder', mode })
  }

  file(path: string, content: Content, mode = 0o644): void {
    this.add(path, { kind: 'file', mode, content })
  }

  link(path: string, target: string): void {
    this.add(path, { kind: 'link', target })
  }

  /** In the order of their bytes; a folder before what it holds. */
  entries(): [path: string, entry: Entry][] {
    return [...this.#entries].toSorted(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  }
}
