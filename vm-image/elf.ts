/** What a program needs to start: its loader and libraries, read from the program itself (System V ABI, ELF-64). */
import { ImageError } from './errors.ts'

const LOAD = 1
const DYNAMIC = 2
const INTERPRETER = 3
const NEEDED = 1
const STRING_TABLE = 5

export const isElf = (data: Uint8Array): boolean =>
  data.length >= 64 && data[0] === 0x7f && data[1] === 0x45 && data[2] === 0x4c && data[3] === 0x46

type Segment = Readonly<{ type: number; offset: number; address: number; size: number }>

function refuse(what: string): never {
  throw new ImageError('lock', `${what}; make the lock anew with \`just relock\`.`)
}

function segments(view: DataView, what: string): Segment[] {
  if (view.getUint8(4) !== 2 || view.getUint8(5) !== 1 || view.getUint16(18, true) !== 62) {
    throw new ImageError('architecture', `${what} is no program for x86-64; the image is for that processor only.`)
  }
  const start = Number(view.getBigUint64(32, true))
  const count = view.getUint16(56, true)
  return Array.from({ length: count }, (_, i) => {
    const at = start + 56 * i
    const word = (offset: number) => Number(view.getBigUint64(at + offset, true))
    return { type: view.getUint32(at, true), offset: word(8), address: word(16), size: word(32) }
  })
}

function stringAt(data: Uint8Array, at: number): string {
  const end = data.indexOf(0, at)
  return Buffer.from(data.subarray(at, end)).toString('latin1')
}

export type Needs = Readonly<{ interpreter: string | null; libraries: readonly string[] }>

/** Reads a 64-bit program or library. Throws ImageError where it is none or does not hold together. */
export function elfNeeds(data: Uint8Array, what: string): Needs {
  if (!isElf(data)) refuse(`${what} is no program`)
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  try {
    const all = segments(view, what)
    const interpreter = all.find(({ type }) => type === INTERPRETER)
    const dynamic = all.find(({ type }) => type === DYNAMIC)
    const pairs: [tag: number, value: number][] = []
    for (let at = dynamic?.offset ?? 0, end = at + (dynamic?.size ?? 0); at < end; at += 16) {
      pairs.push([Number(view.getBigUint64(at, true)), Number(view.getBigUint64(at + 8, true))])
    }
    const address = pairs.find(([tag]) => tag === STRING_TABLE)?.[1] ?? 0
    const holder = all.find(each => each.type === LOAD && address >= each.address && address < each.address + each.size)
    const strings = address - (holder?.address ?? 0) + (holder?.offset ?? 0)
    return {
      interpreter: interpreter === undefined ? null : stringAt(data, interpreter.offset),
      libraries: pairs.filter(([tag]) => tag === NEEDED).map(([, value]) => stringAt(data, strings + value)),
    }
  } catch (error) {
    if (error instanceof RangeError) refuse(`${what} is a damaged program`)
    throw error
  }
}
