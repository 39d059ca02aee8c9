/** All memory of a guest, as the host can read it, searched for keys in every form they might have. */
import { closeSync, openSync, readSync, rmSync } from 'node:fs'
import type { Monitor } from '../../scripts/vm/qmp.ts'

const PIECE = 32 * 1024 * 1024
/** Longer than any needle. */
const OVERLAP = 256

export type Needles = Readonly<Record<string, Uint8Array>>
/** How often each key was found, by its form. */
export type Found = Record<string, Record<'raw' | 'hex' | 'base64', number>>

function count(haystack: Buffer, needle: Buffer, from: number): number {
  let found = 0
  for (let at = haystack.indexOf(needle); at >= 0; at = haystack.indexOf(needle, at + 1)) {
    // What ends in the overlap was counted with the piece before.
    if (at + needle.length > from) found++
  }
  return found
}

function formsOf(key: Uint8Array) {
  const bytes = Buffer.from(key)
  return {
    raw: [bytes],
    hex: [Buffer.from(bytes.toString('hex')), Buffer.from(bytes.toString('hex').toUpperCase())],
    // Without the last digits, whose value depends on what follows; in the other alphabet where that differs.
    base64: [...new Set([bytes.toString('base64'), bytes.toString('base64url')].map(text => text.slice(0, 40)))].map(
      text => Buffer.from(text),
    ),
  }
}

/** Reads a dump piece by piece; `each` sees the new bytes from `from` on, and some before them. */
function eachPiece(file: string, each: (piece: Buffer, from: number) => void): void {
  const dump = openSync(file, 'r')
  try {
    const buffer = Buffer.alloc(OVERLAP + PIECE)
    for (let kept = 0; ; ) {
      const read = readSync(dump, buffer, kept, PIECE, null)
      if (read === 0) return
      each(buffer.subarray(0, kept + read), kept)
      const end = kept + read
      kept = Math.min(OVERLAP, end)
      buffer.copyWithin(0, end - kept, end)
    }
  } finally {
    closeSync(dump)
  }
}

export async function dumpMemory(monitor: Monitor, file: string): Promise<void> {
  rmSync(file, { force: true })
  await monitor.run('dump-guest-memory', { paging: false, protocol: `file:${file}` })
}

export function search(file: string, needles: Needles): Found {
  const wanted = Object.entries(needles).map(([name, key]) => [name, formsOf(key)] as const)
  const found: Found = Object.fromEntries(wanted.map(([name]) => [name, { raw: 0, hex: 0, base64: 0 }]))
  eachPiece(file, (piece, from) => {
    for (const [name, forms] of wanted) {
      for (const form of ['raw', 'hex', 'base64'] as const) {
        for (const needle of forms[form]) (found[name] as Found[string])[form] += count(piece, needle, from)
      }
    }
  })
  return found
}

export const total = (found: Found, name: string): number =>
  Object.values(found[name] ?? {}).reduce((sum, each) => sum + each, 0)

/**
 * Salts of the sealed rows of an item (PROTOCOL 3.2) that lie in memory: what is wanted to derive its keys as the pod
 * did. `[1, kid, coll, item_id, version, type, schema, salt16, ...]`, numbers below 24, a short type.
 */
export function saltsOf(file: string, collection: Uint8Array, itemId: Uint8Array): Map<string, number> {
  const place = Buffer.concat([Buffer.of(0x50), collection, Buffer.of(0x50), itemId])
  const salts = new Map<string, number>()
  eachPiece(file, piece => {
    for (let at = piece.indexOf(place); at >= 0; at = piece.indexOf(place, at + 1)) {
      const version = piece[at + place.length] ?? 0xff
      const typeHead = piece[at + place.length + 1] ?? 0
      const saltHead = at + place.length + 2 + (typeHead - 0x60) + 1
      if (version >= 24 || typeHead < 0x60 || typeHead > 0x77 || piece[saltHead] !== 0x50) continue
      const salt = piece.subarray(saltHead + 1, saltHead + 17)
      if (salt.length === 16) salts.set(salt.toString('hex'), version)
    }
  })
  return salts
}
