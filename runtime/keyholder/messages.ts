/**
 * Messages of `keyholder-api/` over the link between roles. One that fits stands in the stream's head; a larger
 * one (a commit of many buckets) follows an empty head, in chunks, under the stream's credit. Both ends use these.
 */
import { concat } from '../../attestation/bytes.ts'
import { type Link, type LinkStream, reset, StreamReset } from '../link.ts'
import { MESSAGE_CAP } from './verbs.ts'

/** Above this a message does not travel as a head. */
const HEAD_MAX = 512 * 1024

/** Asks over the link and resolves with the answer. Rejects with StreamReset when the other end gave up or is gone. */
export async function ask(link: Link, message: Uint8Array): Promise<Uint8Array> {
  if (message.length <= HEAD_MAX && message.length > 0) return await collect(link.open(message, { end: true }))
  const stream = link.open(new Uint8Array())
  await stream.end(message)
  return await collect(stream)
}

/** The question on a stream that the other end opened. */
export async function question(stream: LinkStream): Promise<Uint8Array> {
  return stream.head.length > 0 ? stream.head : await collect(stream)
}

/** The whole of what comes, within the cap. */
function collect(stream: LinkStream): Promise<Uint8Array> {
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
  const chunks: Uint8Array[] = []
  let size = 0
  stream.receive({
    data(chunk) {
      size += chunk.length
      if (size <= MESSAGE_CAP) chunks.push(chunk.slice())
      else {
        stream.reset(reset.refused)
        reject(new StreamReset(reset.refused))
      }
    },
    end: () => resolve(chunks.length === 1 ? (chunks[0] as Uint8Array) : concat(...chunks)),
    reset: code => reject(new StreamReset(code)),
  })
  return promise
}
