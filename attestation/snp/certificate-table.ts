/**
 * The certificate table of an extended report (GHCB specification, SNP extended guest request): rows of GUID,
 * offset and length up to a zero GUID. The host supplies it: a cache of certificates, never an anchor.
 */
import { concat, fromHex, hex, isZero } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import { Reader, u32le } from '../layout.ts'

/** GUIDs as they stand in the table: the first three groups little-endian. */
const guids = {
  vcek: '8d75da6364e66445adc5f4b93be8accd', // 63da758d-e664-4564-adc5-f4b93be8accd
  vlek: 'c24b07a85aa23e48aae639c045a0b8a1', // a8074bc2-a25a-483e-aae6-39c045a0b8a1
  ask: '79b3b74aacbbe44fa02f05aef327c782', // 4ab7b379-bbac-4fe4-a02f-05aef327c782
  ark: 'a406b4c003a8524997433fb6014cd0ae', // c0b406a4-a803-4952-9743-3fb6014cd0ae
  crl: 'c31bf89211583d4d97ffd19f88dc67ea', // 92f81bc3-5811-4d3d-97ff-d19f88dc67ea
} as const
export type TableEntry = keyof typeof guids
export type CertificateTable = Readonly<Partial<Record<TableEntry, Uint8Array>>>

const ROW = 24
const ROWS_CAP = 32
const named = new Map(Object.entries(guids).map(([name, guid]) => [guid as string, name as TableEntry]))

/** Entries of other kinds are left alone; what follows the zero row is the data, and padding. An empty table is none. */
export function decodeCertificateTable(input: Uint8Array): CertificateTable {
  const table: Partial<Record<TableEntry, Uint8Array>> = {}
  if (input.length === 0) return table
  const rows = new Reader(input, 'certificate table')
  for (let row = 0; row < ROWS_CAP; row++) {
    const guid = rows.take(16, 'GUID')
    if (isZero(guid)) return table
    const offset = rows.field(u32le, 'offset')
    const length = rows.field(u32le, 'length')
    if (offset + length > input.length) throw new Malformed('certificate table: an entry lies outside')
    const name = named.get(hex(guid))
    if (name === undefined) continue
    if (table[name] !== undefined) throw new Malformed(`certificate table: ${name} stands twice`)
    table[name] = input.subarray(offset, offset + length)
  }
  throw new Malformed(`certificate table: more than ${ROWS_CAP - 1} rows`)
}

export function encodeCertificateTable(table: CertificateTable): Uint8Array {
  const entries = Object.entries(table)
  let offset = (entries.length + 1) * ROW
  const rows: Uint8Array[] = []
  for (const [name, certificate] of entries) {
    const row = new Uint8Array(ROW)
    row.set(fromHex(guids[name as TableEntry]) as Uint8Array)
    u32le.write(offset, row, 16)
    u32le.write(certificate.length, row, 20)
    rows.push(row)
    offset += certificate.length
  }
  return concat(...rows, new Uint8Array(ROW), ...entries.map(([, certificate]) => certificate))
}
