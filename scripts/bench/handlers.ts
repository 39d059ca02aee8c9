/** The handlers that both sides of a comparison run, on Koa's own context. */
import { Readable } from 'node:stream'
import type Koa from 'koa'

type Call = Pick<Koa.Context, 'req' | 'type' | 'body'>
const CHUNK = Buffer.alloc(64 * 1024, 7)

/** Parses 1 KiB of JSON and answers it. */
export async function echo(call: Call): Promise<void> {
  const pieces: Buffer[] = []
  for await (const piece of call.req) pieces.push(piece as Buffer)
  call.body = JSON.parse(Buffer.concat(pieces).toString('utf8'))
}

/** Reads everything and keeps nothing. */
export async function discard(call: Call): Promise<void> {
  let bytes = 0
  for await (const piece of call.req) bytes += (piece as Buffer).length
  call.body = { bytes }
}

/** As many bytes as the path asks for. */
export function generate(call: Call & { params: Readonly<Record<string, string>> }): void {
  let left = Number(call.params['bytes'])
  call.type = 'application/octet-stream'
  call.body = new Readable({
    read() {
      if (left <= 0) this.push(null)
      else {
        const chunk = left >= CHUNK.length ? CHUNK : CHUNK.subarray(0, left)
        left -= chunk.length
        this.push(chunk)
      }
    },
  })
}
