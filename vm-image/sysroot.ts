/** Picks files out of the unpacked packages: a program with all it needs, kernel modules in the order of their loading. */
import { lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { elfNeeds, isElf } from './elf.ts'
import { ImageError } from './errors.ts'
import { runTool } from './tools.ts'
import { type Content, type FileTree } from './tree.ts'

const LIBRARIES = '/usr/lib/x86_64-linux-gnu'

export class Sysroot {
  readonly folder: string
  /** Files of these paths come from elsewhere: the stripped Node.js. */
  readonly #replaced: ReadonlyMap<string, string>
  constructor(folder: string, replaced: ReadonlyMap<string, string> = new Map()) {
    this.folder = realpathSync(folder)
    this.#replaced = replaced
  }

  /** Path on this machine of a file of the packages. Links stay inside the tree. */
  #real(path: string): string {
    const elsewhere = this.#replaced.get(path)
    if (elsewhere !== undefined) return elsewhere
    let at = join(this.folder, path)
    try {
      for (let hops = 0; hops < 16 && lstatSync(at).isSymbolicLink(); hops++) {
        const target = readlinkSync(at)
        at = target.startsWith('/') ? join(this.folder, target) : join(dirname(at), target)
      }
      at = realpathSync(at)
      if (relative(this.folder, at).startsWith('..')) throw new Error(`${path} leads out of the packages`)
      return at
    } catch {
      throw new ImageError(
        'missing',
        `No locked package has ${path}; add the one that does to vm-image/inputs.json and run \`just relock\`.`,
      )
    }
  }

  content(path: string): Content {
    return { from: this.#real(path) }
  }

  read(path: string): Uint8Array {
    return new Uint8Array(readFileSync(this.#real(path)))
  }

  /** Puts a program or library at `under` + path, and beside it whatever it needs. */
  addProgram(tree: FileTree, path: string, under = ''): void {
    if (tree.has(under + path)) return
    const from = this.#real(path)
    tree.file(under + path, { from }, 0o755)
    const { interpreter, libraries } = elfNeeds(readFileSync(from), path)
    if (interpreter !== null) this.#addLoader(tree, interpreter, under)
    for (const name of libraries) {
      if (!name.startsWith('ld-linux')) this.addProgram(tree, `${LIBRARIES}/${name}`, under)
    }
  }

  /** The loader's path is in every program, below the link /lib64. */
  #addLoader(tree: FileTree, interpreter: string, under: string): void {
    const path = `/usr${interpreter}`
    if (tree.has(under + path)) return
    tree.file(under + path, { from: this.#real(path) }, 0o755)
    tree.link(`${under}/lib64`, 'usr/lib64')
  }

  /** All files of a folder, or those whose names match; programs among them with what they need. */
  addFolder(tree: FileTree, path: string, under = '', wanted = /./): void {
    const top = join(this.folder, path)
    for (const name of readdirSync(top, { recursive: true, encoding: 'utf8' }).toSorted()) {
      if (!wanted.test(name) || !statSync(join(top, name)).isFile()) continue
      const from = this.#real(`${path}/${name}`)
      if (isElf(readFileSync(from))) this.addProgram(tree, `${path}/${name}`, under)
      else tree.file(`${under}${path}/${name}`, { from })
    }
  }
}

/** What a module says it needs before it, from its `.modinfo`. */
function dependencies(module: Uint8Array): string[] {
  const list = /\0depends=([\w,-]*)\0/.exec(Buffer.from(module).toString('latin1'))?.[1] ?? ''
  return list.split(',').filter(name => name !== '')
}

const canonical = (name: string): string => name.replaceAll('-', '_')

export type Module = Readonly<{ name: string; content: Uint8Array }>

/** The kernel of the packages: its image and its modules, which stay signed. */
export class Kernel {
  readonly version: string
  readonly image: Content
  readonly #files: ReadonlyMap<string, string>
  readonly #unpacked = new Map<string, Uint8Array>()
  constructor(packages: Sysroot) {
    const versions = readdirSync(join(packages.folder, 'usr/lib/modules'))
    const [version] = versions
    if (version === undefined || versions.length !== 1)
      throw new ImageError(
        'lock',
        `Expected one kernel, found ${versions.length}; make the lock anew with \`just relock\`.`,
      )
    this.version = version
    this.image = packages.content(`/boot/vmlinuz-${version}`)
    const top = join(packages.folder, 'usr/lib/modules', version, 'kernel')
    const files = readdirSync(top, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ko.xz'))
    this.#files = new Map(files.map(name => [canonical(name.replace(/^.*\//, '').slice(0, -6)), join(top, name)]))
  }

  async #module(name: string): Promise<Uint8Array> {
    const known = this.#unpacked.get(name)
    if (known !== undefined) return known
    const file = this.#files.get(name)
    if (file === undefined)
      throw new ImageError(
        'missing',
        `The kernel ${this.version} has no module ${name}; correct vm-image/contents.json.`,
      )
    const content = await unxz(file)
    this.#unpacked.set(name, content)
    return content
  }

  /** These modules and what they need, each after what it needs. */
  async modules(names: readonly string[]): Promise<Module[]> {
    const ordered = new Map<string, Uint8Array>()
    const add = async (name: string): Promise<void> => {
      if (ordered.has(name)) return
      const content = await this.#module(name)
      for (const needed of dependencies(content)) await add(canonical(needed))
      ordered.set(name, content)
    }
    for (const name of names) await add(canonical(name))
    return [...ordered].map(([name, content]) => ({ name, content }))
  }
}

/** Busybox loads plain modules only. */
async function unxz(file: string): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  await runTool('xz', ['--decompress', '--stdout', file], {
    take: chunk => {
      chunks.push(chunk)
    },
  })
  return new Uint8Array(Buffer.concat(chunks))
}
