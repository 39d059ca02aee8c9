// @phala/dcap-qvl-web: Rust in WebAssembly.
import { initSync, js_verify } from '@phala/dcap-qvl-web'

/** @param {Uint8Array} wasm the module that the package ships beside its script */
export async function load(wasm) {
  initSync({ module: wasm })
}

export function prepare({ quote, collateral, now }) {
  const seconds = BigInt(now)
  return async () => {
    const { status } = js_verify(quote, collateral, seconds)
    if (status !== 'UpToDate') throw new Error(`status ${status}`)
  }
}
