/** POSIX ustar (IEEE 1003.1), written as a stream: what any tar reads. Regular files, one owner, names in ASCII. */
import { utf8 } from '../../attestation/bytes.ts'

const BLOCK = 512
const NAME_BYTES = 100
const PREFIX_BYTES = 155
const MODE = '0000600'

export type TarEntry = Readonly<{
  /** Relative, with `/`; at most 100 characters, or 155 more in folders before that. */
  name: string
  size: number
  /** Seconds since 1970. */
  time: number
  bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>
}>

const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, '0')

function split(name: string): [string, string] {
  if (name.length <= NAME_BYTES) return [name, '']
  for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1)) {
    if (at <= PREFIX_BYTES && name.length - at - 1 <= NAME_BYTES) return [name.slice(at + 1), name.slice(0, at)]
  }
  throw new RangeError(`a name too long for a tar: ${name.length} characters`)
}

function header({ name, size, time }: TarEntry): Uint8Array {
  const block = new Uint8Array(BLOCK)
  const put = (at: number, text: string) => block.set(utf8(text), at)
  const [last, prefix] = split(name)
  put(0, last)
  put(100, `${MODE}\0`)
  put(108, `${octal(0, 7)}\0${octal(0, 7)}\0`)
  put(124, size < 8 ** 11 ? `${octal(size, 11)}\0` : '')
  if (size >= 8 ** 11) largeSize(block, size)
  put(136, `${octal(time, 11)}\0`)
  put(148, ' '.repeat(8))
  put(156, '0')
  put(257, 'ustar\x0000')
  put(345, prefix)
  put(
    148,
    `${octal(
      block.reduce((sum, byte) => sum + byte, 0),
      6,
    )}\0 `,
  )
  return block
}

/** Above 8 GiB: the binary form that GNU tar, bsdtar and busybox read. */
function largeSize(block: Uint8Array, size: number): void {
  block[124] = 0x80
  new DataView(block.buffer).setBigUint64(128, BigInt(size))
}

/** The archive of these files. Throws where a file is not of the size it said. */
export async function* tar(entries: AsyncIterable<TarEntry>): AsyncGenerator<Uint8Array> {
  for await (const entry of entries) {
    yield header(entry)
    let written = 0
    for await (const chunk of entry.bytes) {
      written += chunk.length
      yield chunk
    }
    if (written !== entry.size)
      throw new RangeError(`${entry.name}: ${written} bytes came, ${entry.size} were announced`)
    if (written % BLOCK !== 0) yield new Uint8Array(BLOCK - (written % BLOCK))
  }
  yield new Uint8Array(2 * BLOCK)
}
