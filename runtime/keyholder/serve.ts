/** The keyholder's two sockets: bytes in, one answer or one reset out. Nothing here decides; nothing here throws. */
import { Refusal, Unavailable } from '../../attestation/errors.ts'
import { decode, encodeAs } from '../../attestation/wire.ts'
import { KEYHOLDER_VERB_CAP, keyholderVerb, statusAnswer } from '../edge/verbs.ts'
import { type Link, type LinkStream, type ResetCode, reset } from '../link.ts'
import { type Keyholder, type Ports, UnknownSession } from './keyholder.ts'
import { ask, question } from './messages.ts'
import { apiAnswer, apiRequest, keyholderAnswer, keyholderRequest, MESSAGE_CAP } from './verbs.ts'

/** What a refusal is on the edge's link (PROTOCOL 2.8): nothing of its cause leaves this process. */
function resetCode(error: unknown): ResetCode {
  if (error instanceof UnknownSession) return reset.unknownSession
  if (error instanceof Unavailable) return reset.busy
  if (error instanceof Refusal) return reset.refused
  return reset.gone
}

async function answerEdge(keyholder: Keyholder, head: Uint8Array): Promise<Uint8Array> {
  const verb = decode(keyholderVerb, head, KEYHOLDER_VERB_CAP)
  if (verb.kind === 'hello') return await keyholder.hello(verb.body)
  if (verb.kind === 'auth') return await keyholder.auth(verb.body)
  if (verb.kind === 'control') return await keyholder.control(verb.sid, verb.n, verb.body)
  return encodeAs(statusAnswer, keyholder.phase)
}

/** One stream of the edge's. */
export async function serveEdge(keyholder: Promise<Keyholder>, stream: LinkStream): Promise<void> {
  try {
    await stream.end(await answerEdge(await keyholder, stream.head))
  } catch (error) {
    stream.reset(resetCode(error))
  }
}

/** The api's link: the one that attached last is the one over which the keyholder asks. */
export class ApiLink {
  #link: Link | null = null

  readonly store: Ports['store'] = {
    ask: async request => {
      if (this.#link === null) throw new Unavailable('the api is not there')
      const answer = await ask(this.#link, encodeAs(keyholderRequest, request))
      return decode(apiAnswer, answer, MESSAGE_CAP)
    },
  }

  /** One stream of the api's. */
  async serve(pending: Promise<Keyholder>, stream: LinkStream, link: Link): Promise<void> {
    try {
      const keyholder = await pending
      const request = decode(apiRequest, await question(stream), MESSAGE_CAP)
      await stream.end(encodeAs(keyholderAnswer, await keyholder.answer(request)))
      if (request.kind === 'attach') this.#attach(keyholder, link)
    } catch (error) {
      stream.reset(resetCode(error))
    }
  }

  #attach(keyholder: Keyholder, link: Link): void {
    this.#link = link
    void link.closed.then(() => {
      if (this.#link === link) this.#link = null
    })
    void keyholder.announce()
  }
}
