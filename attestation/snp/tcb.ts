/** Processor generations, and what the eight bytes of a TCB version mean on each. AMD 56860; EVIDENCE section 1. */
import { Malformed } from '../errors.ts'

export const products = ['Milan', 'Genoa', 'Siena', 'Turin'] as const
/** `Siena` stands for Siena and Bergamo, which share firmware and microcode. */
export type Product = (typeof products)[number]

/** The name AMD's certificates use: Siena and Bergamo are endorsed by Genoa's chain. */
export type ProductLine = 'Milan' | 'Genoa' | 'Turin'
export const productLine = (product: Product): ProductLine => (product === 'Siena' ? 'Genoa' : product)

/** Security patch levels of the firmware parts; `fmc` exists from Turin on and is 0 before. */
export type Tcb = Readonly<Record<TcbPart, number>>
export const tcbParts = ['fmc', 'bootLoader', 'tee', 'snp', 'microcode'] as const
export type TcbPart = (typeof tcbParts)[number]

/** Offset of each part in TCB_VERSION; every other byte is reserved. */
const family19: Readonly<Partial<Record<TcbPart, number>>> = { bootLoader: 0, tee: 1, snp: 6, microcode: 7 }
const family1a: Readonly<Partial<Record<TcbPart, number>>> = { fmc: 0, bootLoader: 1, tee: 2, snp: 3, microcode: 7 }
const offsets = { Milan: family19, Genoa: family19, Siena: family19, Turin: family1a } as const

export function decodeTcb(product: Product, version: Uint8Array, name: string): Tcb {
  const at = offsets[product]
  const used = new Set(Object.values(at))
  for (let i = 0; i < 8; i++) {
    if (!used.has(i) && version[i] !== 0) throw new Malformed(`${name}: reserved byte ${i} is not zero`)
  }
  const part = (which: TcbPart): number => {
    const offset = at[which]
    return offset === undefined ? 0 : (version[offset] as number)
  }
  return {
    fmc: part('fmc'),
    bootLoader: part('bootLoader'),
    tee: part('tee'),
    snp: part('snp'),
    microcode: part('microcode'),
  }
}

export function encodeTcb(product: Product, tcb: Tcb): Uint8Array {
  const version = new Uint8Array(8)
  for (const which of tcbParts) {
    const offset = offsets[product][which]
    if (offset !== undefined) version[offset] = tcb[which]
  }
  return version
}

/** In words, without the parts that the generation does not have. */
export function tcbText(product: Product, tcb: Tcb): string {
  const present = tcbParts.filter(part => offsets[product][part] !== undefined)
  return present.map(part => `${part} ${tcb[part]}`).join(', ')
}

/** The parts that are behind a floor. */
export const partsBelow = (tcb: Tcb, floor: Tcb): TcbPart[] => tcbParts.filter(part => tcb[part] < floor[part])
