/** Standard base64 over bytes: a private key in PEM, for one, must never become a string, which could not be wiped. */
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
const PAD = 0x3d
const NONE = 0xff
const codes = Uint8Array.from(ALPHABET, character => character.charCodeAt(0))
const values = new Uint8Array(256).fill(NONE)
codes.forEach((code, value) => {
  values[code] = value
})

/** Padded, as ASCII bytes. */
export function encodeBase64(bytes: Uint8Array): Uint8Array {
  const text = new Uint8Array(4 * Math.ceil(bytes.length / 3)).fill(PAD)
  let at = 0
  for (let i = 0; i < bytes.length; i += 3) {
    const left = Math.min(bytes.length - i, 3)
    const group = ((bytes[i] as number) << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0)
    for (let j = 0; j <= left; j++) text[at + j] = codes[(group >> (18 - 6 * j)) & 63] as number
    at += 4
  }
  return text
}

/** The one canonical form (RFC 4648, 3.5 and 4): padded, unused bits zero, nothing else between. Else null. */
export function decodeBase64(text: Uint8Array): Uint8Array | null {
  if (text.length % 4 !== 0) return null
  const pads = text.at(-1) !== PAD ? 0 : text.at(-2) !== PAD ? 1 : 2
  return decodeDigits(text.subarray(0, text.length - pads), true)
}

/** What a forgiving reader makes of it: foreign characters skipped, ended by the first padding. Never null. */
export function decodeBase64Leniently(text: Uint8Array): Uint8Array {
  const end = text.indexOf(PAD)
  const digits = text.subarray(0, end < 0 ? text.length : end).filter(code => values[code] !== NONE)
  return decodeDigits(digits.length % 4 === 1 ? digits.subarray(0, -1) : digits, false) as Uint8Array
}

/** `strict`: no foreign character, and the bits left over are zero. */
function decodeDigits(digits: Uint8Array, strict: boolean): Uint8Array | null {
  const bytes = new Uint8Array(Math.floor((digits.length * 3) / 4))
  let at = 0
  let held = 0
  let bits = 0
  for (let i = 0; i < digits.length; i++) {
    const value = values[digits[i] as number] as number
    if (value === NONE) return null
    held = ((held << 6) | value) & 0xfff
    bits += 6
    if (bits < 8) continue
    bits -= 8
    bytes[at++] = held >> bits
  }
  return strict && (held & ((1 << bits) - 1)) !== 0 ? null : bytes
}
