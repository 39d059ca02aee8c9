// @phala/dcap-qvl: JavaScript, node:crypto in Node and elliptic in browsers.
import phala from '@phala/dcap-qvl'
import { Buffer } from 'buffer'

export async function load() {}

export function prepare({ quote, collateral, now }) {
  const bytes = Buffer.from(quote)
  return async () => {
    const { status } = phala.verify(bytes, collateral, now)
    if (status !== 'UpToDate') throw new Error(`status ${status}`)
  }
}
