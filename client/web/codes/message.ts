/**
 * What people carry between devices (keys, sealed shares, requests, answers) as text: alone, or behind the `#` of a link,
 * which no server gets to see. What a message is, its own first bytes say.
 */
import { base64Url, fromBase64Url } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'

/** The largest there is, an answer, has this cap, too. */
export const MESSAGE_CAP = 16 * 1024
const MARK = 'pod1.'
/** Room for a link's address and for the line breaks that mail puts in. */
const TEXT_CAP = 2 * MESSAGE_CAP

export const messageText = (message: Uint8Array): string => MARK + base64Url(message)

/** @param page address of a page that reads it, without a fragment */
export const messageLink = (page: string, message: Uint8Array): string => `${page}#${messageText(message)}`

/** A link, its fragment, or the text alone, as pasted: white space is let go. Throws Malformed that says what came. */
export function readMessage(text: string): Uint8Array {
  if (text.length > TEXT_CAP) {
    throw new Malformed(`${text.length} characters; nothing that is sent here has more than ${TEXT_CAP}`, 'data')
  }
  const packed = text.replaceAll(/\s/g, '')
  const at = packed.indexOf('#') + 1
  const bare = packed.slice(at)
  if (packed === '') throw new Malformed('nothing was pasted', 'data')
  if (!bare.startsWith(MARK)) {
    const what = at > 0 ? 'a link that holds nothing for this page' : 'some other text'
    throw new Malformed(`this is ${what}; what is meant for it has "${MARK}" in it`, 'data')
  }
  const message = fromBase64Url(bare.slice(MARK.length))
  if (message !== null && message.length > 0 && message.length <= MESSAGE_CAP) return message
  throw new Malformed('a part of it is missing, or was changed on the way: copy the whole of it', 'data')
}
