/** Certificates in PEM (RFC 7468, strict form without explanatory text), as quotes carry them. */
import { utf8Text } from '../bytes.ts'
import { Malformed } from '../errors.ts'

const block = /-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/\n]+={0,2})\n-----END CERTIFICATE-----(?:\n|$)/g

/** Base64 in its one canonical form: unused bits zero. */
function fromBase64(text: string, name: string): Uint8Array {
  try {
    const binary = atob(text)
    if (btoa(binary) === text) {
      const bytes = new Uint8Array(binary.length)
      for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i)
      return bytes
    }
  } catch {}
  throw new Malformed(`${name}: a certificate is not base64`)
}

/** Exactly `count` certificates, DER, in their order. Intel ends the text with a zero byte. */
export function decodePem(input: Uint8Array, count: number, name: string): Uint8Array[] {
  const text = utf8Text(input.at(-1) === 0 ? input.subarray(0, -1) : input) ?? ''
  const blocks = [...text.matchAll(block)]
  if (blocks.length !== count || blocks.map(([whole]) => whole).join('') !== text)
    throw new Malformed(`${name}: expected ${count} PEM certificates and nothing else`)
  return blocks.map(([, body]) => fromBase64((body as string).replaceAll('\n', ''), name))
}

export function encodePem(certificates: readonly Uint8Array[]): string {
  return certificates
    .map(der => {
      const lines = btoa(String.fromCharCode(...der)).match(/.{1,64}/g) ?? []
      return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
    })
    .join('')
}
