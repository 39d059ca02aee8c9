/** The table of ratios as a page makes it: the same code and the same cases, with WebCrypto. */
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { openSet, type VectorSet } from '../../conformance/set.ts'
import type { Row } from '../rows.ts'
import { bareRows, type Bench, type Peer, type PeerName, peerRow } from './ratios.ts'

/** What a peer's own bundle leaves behind in the page. */
type Loadable = Readonly<{ load: (wasm: Uint8Array) => Promise<void>; prepare: Peer['prepare'] }>

let own: Bench

export const bench = {
  open(set: VectorSet): void {
    own = { vectors: openSet(set, webPrimitives()), clock: () => performance.now() }
  },
  async bare(): Promise<Row[]> {
    const rows: Row[] = []
    for await (const row of bareRows(own)) rows.push(row)
    return rows
  },
  /** @param wasm in base64, for peers that want it handed in */
  async against({ name, wasm }: Readonly<{ name: PeerName; wasm: string }>): Promise<Row> {
    const { load, prepare } = (globalThis as unknown as { peer: Loadable }).peer
    await load(Uint8Array.from(atob(wasm), byte => byte.charCodeAt(0)))
    return peerRow(own, name, { name, prepare })
  },
}
Object.assign(globalThis, { bench })
