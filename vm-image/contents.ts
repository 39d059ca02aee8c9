/** The trees of an image: initrd, root, and below `/roles` a root for the container of each role. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ImageError } from './errors.ts'
import { type Kernel, type Module, type Sysroot } from './sysroot.ts'
import { FileTree } from './tree.ts'

/** A role's program as one file, and the paths of what went into it. */
export type Bundle = Readonly<{ role: string; output: Uint8Array; inputs: readonly string[] }>

type Folder = Readonly<{ path: string; matching: string }>
type RoleContents = Readonly<{ programs: readonly string[]; bundles?: readonly string[]; folders?: readonly Folder[] }>

/** `contents.json`. */
export type Contents = Readonly<{
  /** Where the Node.js of the lock goes. */
  node: string
  initrd: Readonly<{ programs: readonly string[]; modules: readonly string[] }>
  root: Readonly<{ programs: readonly string[]; modules: readonly string[]; bundles: readonly string[] }>
  roles: Readonly<Record<string, RoleContents>>
  /** Empty folders, in the root and in each role's. */
  mountPoints: readonly string[]
}>

export type Ingredients = Readonly<{
  packages: Sysroot
  kernel: Kernel
  contents: Contents
  /** Folder with the files of the checkout: `initrd`, `root`, and one for each profile. */
  files: string
  profile: string
  bundles: readonly Bundle[]
  osRelease: string
}>

const BUNDLES = '/usr/lib/attested-pod/roles'
const text = new TextEncoder()

/** The files of a folder; those that name an interpreter may be run. Later folders win. */
function overlays(folders: readonly string[]): Map<string, Uint8Array> {
  const found = new Map<string, Uint8Array>()
  for (const folder of folders) {
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue
      const path = join(entry.parentPath, entry.name)
      found.set(path.slice(folder.length), new Uint8Array(readFileSync(path)))
    }
  }
  return found
}

function addOverlays(tree: FileTree, folders: readonly string[]): void {
  for (const [path, content] of overlays(folders)) {
    const runs = content[0] === 0x23 && content[1] === 0x21 // #!
    tree.file(path, content, runs ? 0o755 : 0o644)
  }
}

function addModules(tree: FileTree, folder: string, modules: readonly Module[]): void {
  for (const { name, content } of modules) tree.file(`${folder}/${name}.ko`, content)
  tree.file(`${folder}/order`, text.encode(modules.map(({ name }) => `${name}\n`).join('')))
}

function addBundles(tree: FileTree, under: string, names: readonly string[], { bundles }: Ingredients): void {
  for (const name of names) {
    const bundle = bundles.find(({ role }) => role === name)
    if (bundle === undefined)
      throw new ImageError(
        'usage',
        `vm-image/contents.json asks for a bundle "${name}", which scripts/build.ts does not make; correct one of the two.`,
      )
    tree.file(`${under}${BUNDLES}/${name}.mjs`, bundle.output)
  }
}

export async function initrdTree(ingredients: Ingredients): Promise<FileTree> {
  const { packages, kernel, contents, files } = ingredients
  const tree = new FileTree()
  for (const path of contents.initrd.programs) packages.addProgram(tree, path)
  for (const path of ['/dev', '/proc', '/sys', '/new']) tree.folder(path)
  // Before devtmpfs is there the kernel opens this one for the first program's output.
  tree.add('/dev/console', { kind: 'device', mode: 0o600, major: 5, minor: 1 })
  tree.link('/bin', 'usr/bin')
  tree.link('/lib', 'usr/lib')
  addModules(tree, '/modules', await kernel.modules(contents.initrd.modules))
  addOverlays(tree, [join(files, 'initrd')])
  return tree
}

/** Of busybox, only what the files of the root call, by name. */
const applets = ['init', 'sh', 'mount', 'insmod', 'ip', 'mkfifo', 'sync', 'true', 'false'] as const

function addRole(tree: FileTree, name: string, role: RoleContents, ingredients: Ingredients): void {
  const under = `/roles/${name}`
  for (const path of role.programs) ingredients.packages.addProgram(tree, path, under)
  for (const { path, matching } of role.folders ?? []) {
    ingredients.packages.addFolder(tree, path, under, new RegExp(matching))
  }
  addBundles(tree, under, role.bundles ?? [], ingredients)
  for (const path of ingredients.contents.mountPoints) tree.folder(under + path)
  for (const path of ['/bin', '/lib']) tree.link(under + path, `usr${path}`)
  for (const file of ['/etc/passwd', '/etc/group']) {
    tree.file(under + file, new Uint8Array(readFileSync(join(ingredients.files, 'root', file))))
  }
}

export async function rootTree(ingredients: Ingredients): Promise<FileTree> {
  const { packages, kernel, contents, files, profile } = ingredients
  const tree = new FileTree()
  for (const path of contents.root.programs) packages.addProgram(tree, path)
  for (const path of contents.mountPoints) tree.folder(path)
  for (const folder of ['bin', 'lib', 'sbin']) tree.link(`/${folder}`, `usr/${folder}`)
  for (const name of applets) tree.link(name === 'init' ? '/usr/sbin/init' : `/usr/bin/${name}`, '/usr/bin/busybox')
  addModules(tree, '/usr/lib/modules', await kernel.modules(contents.root.modules))
  addBundles(tree, '', contents.root.bundles, ingredients)
  tree.file('/etc/os-release', text.encode(ingredients.osRelease))
  addOverlays(tree, [join(files, 'root'), ...(profile === 'release' ? [] : [join(files, profile)])])
  for (const [name, role] of Object.entries(contents.roles)) addRole(tree, name, role, ingredients)
  return tree
}
