/** Archives of a {@link FileTree}: tar (POSIX ustar) for mksquashfs, cpio (newc) for the kernel. Written, never read. */
import { contentOf, type Entry, type FileTree, sameContent } from './tree.ts'

const BLOCK = 512
const text = new TextEncoder()

const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, '0')}\0`

const typeOf = { file: '0', hard: '1', link: '2', device: '3', folder: '5' } as const

export type TarHeader = Readonly<{
  name: string
  type: keyof typeof typeOf
  mode: number
  sizeBytes: number
  epoch: number
  target?: string
  device?: readonly [major: number, minor: number]
  /** `gnu` is GNU's old form, which Google Cloud asks for. */
  format?: 'ustar' | 'gnu'
}>

/** A name of up to 255 bytes goes into two fields, cut at a slash. */
function splitName(name: string): [name: string, prefix: string] {
  if (text.encode(name).length <= 100) return [name, '']
  for (let at = name.indexOf('/'); at !== -1; at = name.indexOf('/', at + 1)) {
    const [prefix, rest] = [name.slice(0, at), name.slice(at + 1)]
    if (text.encode(rest).length <= 100 && text.encode(prefix).length <= 155 && rest !== '') return [rest, prefix]
  }
  throw new RangeError(`tar: the name is too long: ${name}`)
}

/** Sizes from 8 GiB on do not fit twelve octal digits. */
function sizeField(sizeBytes: number): string {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes >= 8 ** 11) {
    throw new RangeError(`tar: a file of ${sizeBytes} bytes`)
  }
  return octal(sizeBytes, 12)
}

export function tarHeader(header: TarHeader): Uint8Array {
  const { type, mode, sizeBytes, epoch, target = '', device = [0, 0], format = 'ustar' } = header
  const [name, prefix] = splitName(header.name)
  if (text.encode(target).length > 100) throw new RangeError(`tar: the link's target is too long: ${target}`)
  const block = new Uint8Array(BLOCK)
  const put = (at: number, value: string) => block.set(text.encode(value), at)
  put(0, name)
  put(100, octal(mode, 8))
  put(108, octal(0, 8))
  put(116, octal(0, 8))
  put(124, sizeField(sizeBytes))
  put(136, octal(epoch, 12))
  put(148, ' '.repeat(8)) // the sum is taken with its own field blank
  put(156, typeOf[type])
  put(157, target)
  put(257, format === 'gnu' ? 'ustar  \0' : 'ustar\x0000')
  put(329, octal(device[0], 8))
  put(337, octal(device[1], 8))
  put(345, prefix)
  const sum = block.reduce((total, byte) => total + byte, 0)
  put(148, `${sum.toString(8).padStart(6, '0')}\0 `)
  return block
}

export const tarPadding = (sizeBytes: number): Uint8Array => new Uint8Array((BLOCK - (sizeBytes % BLOCK)) % BLOCK)
export const tarEnd = (): Uint8Array => new Uint8Array(2 * BLOCK)

/** Files that are the same become hard links of the first, which is one file to the kernel's page cache too. */
export function* tar(tree: FileTree, epoch: number): Generator<Uint8Array> {
  const first = new Map<unknown, string>()
  for (const [path, entry] of tree.entries()) {
    const name = path.slice(1)
    const common = { name, epoch, sizeBytes: 0 }
    if (entry.kind === 'folder') yield tarHeader({ ...common, name: `${name}/`, type: 'folder', mode: entry.mode })
    else if (entry.kind === 'link') yield tarHeader({ ...common, type: 'link', mode: 0o777, target: entry.target })
    else if (entry.kind === 'device') {
      yield tarHeader({ ...common, type: 'device', mode: entry.mode, device: [entry.major, entry.minor] })
    } else {
      const original = first.get(sameContent(entry.content))
      if (original !== undefined) {
        yield tarHeader({ ...common, type: 'hard', mode: entry.mode, target: original })
        continue
      }
      first.set(sameContent(entry.content), name)
      const content = contentOf(entry.content)
      yield tarHeader({ ...common, type: 'file', mode: entry.mode, sizeBytes: content.length })
      yield content
      yield tarPadding(content.length)
    }
  }
  yield tarEnd()
}

const fileType = { folder: 0o040000, file: 0o100000, link: 0o120000, device: 0o020000 } as const
const hex8 = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0')

function cpioEntry(inode: number, name: string, entry: Entry, epoch: number): Uint8Array[] {
  const content =
    entry.kind === 'file' ? contentOf(entry.content) : text.encode(entry.kind === 'link' ? entry.target : '')
  const mode = fileType[entry.kind] | (entry.kind === 'link' ? 0o777 : entry.mode)
  const [major, minor] = entry.kind === 'device' ? [entry.major, entry.minor] : [0, 0]
  const links = entry.kind === 'folder' ? 2 : 1
  const encoded = text.encode(`${name}\0`)
  const fields = [inode, mode, 0, 0, links, epoch, content.length, 0, 0, major, minor, encoded.length, 0]
  const head = text.encode(`070701${fields.map(hex8).join('')}`)
  const pad = (size: number) => new Uint8Array((4 - (size % 4)) % 4)
  return [head, encoded, pad(head.length + encoded.length), content, pad(content.length)]
}

/** As the kernel's documentation has it (early-userspace/buffer-format). */
export function cpio(tree: FileTree, epoch: number): Uint8Array {
  const parts = tree.entries().flatMap(([path, entry], at) => cpioEntry(at + 1, path.slice(1), entry, epoch))
  parts.push(...cpioEntry(0, 'TRAILER!!!', { kind: 'file', mode: 0, content: new Uint8Array() }, 0))
  const joined = Buffer.concat(parts)
  return new Uint8Array(Buffer.concat([joined, new Uint8Array((BLOCK - (joined.length % BLOCK)) % BLOCK)]))
}
