/** PEM over bytes: a private key never becomes a string. RFC 7468, with lines of any length, LF or CRLF. */
import { decodeBase64 } from '../../attestation/base64.ts'
import { concat, utf8 } from '../../attestation/bytes.ts'

/** The body of the one block that a text is, if it has this label; else null. */
export function decodePemBlock(pem: Uint8Array, label: string): Uint8Array | null {
  const begin = utf8(`-----BEGIN ${label}-----`)
  const end = utf8(`-----END ${label}-----`)
  const text = withoutLineEnds(pem)
  const from = begin.length
  const to = text.length - end.length
  if (to < from || !startsWith(text, begin) || !startsWith(text.subarray(to), end)) return null
  return decodeBase64(text.subarray(from, to))
}

/** Line ends, and blanks around them: what base64 is wrapped with. */
export const withoutLineEnds = (text: Uint8Array): Uint8Array =>
  concat(...lines(text).map(line => line.subarray(0, trimmedLength(line))))

function* eachLine(text: Uint8Array): Generator<Uint8Array> {
  let start = 0
  for (let at = text.indexOf(0x0a); at >= 0; at = text.indexOf(0x0a, start)) {
    yield text.subarray(start, at)
    start = at + 1
  }
  yield text.subarray(start)
}
const lines = (text: Uint8Array): Uint8Array[] => [...eachLine(text)]

function trimmedLength(line: Uint8Array): number {
  let end = line.length
  while (end > 0 && (line[end - 1] === 0x0d || line[end - 1] === 0x20)) end--
  return end
}

const startsWith = (text: Uint8Array, start: Uint8Array): boolean => start.every((byte, i) => text[i] === byte)
