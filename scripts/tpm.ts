/**
 * npm run tpm -- [--device PATH | --swtpm PATH | --tcti CONFIGURATION] [--json]
 *
 * What the TPM of this machine says of itself: its maker, its registers, the key that it would quote a pod's sessions
 * with and the pin of that key, and whether a quote over a fresh question verifies. Reads only, and leaves nothing behind.
 */
import * as crypto from 'node:crypto'
import { parseArgs } from 'node:util'
import { hex, utf8Text, u32be } from '../attestation/bytes.ts'
import { exitCode } from '../attestation/errors.ts'
import { nodePrimitives } from '../attestation/primitives/node.ts'
import { property } from '../attestation/tpm/commands.ts'
import { platformPin } from '../attestation/tpm/key.ts'
import { attestationTemplate, decodePublic } from '../attestation/tpm/public.ts'
import { checkQuote } from '../attestation/tpm/quote.ts'
import { decodeSignature } from '../attestation/tpm/signature.ts'
import { quotedRegisters } from '../runtime/attester/machine.ts'
import { Tpm } from '../runtime/attester/tpm/tpm.ts'
import { SwtpmSocket, TpmDevice, type TpmTransport } from '../runtime/attester/tpm/transport.ts'
import { Tcti } from './tcti.ts'

const p = nodePrimitives(crypto)
const selection = quotedRegisters.tpm

/** Everything that is shown, quoted and verified. */
async function examine(transport: TpmTransport) {
  return Tpm.with(transport, async tpm => {
    const manufacturer = (await tpm.property(property.manufacturer)) ?? 0
    const firmware = [await tpm.property(property.firmware1), await tpm.property(property.firmware2)]
    return tpm.withPrimary(attestationTemplate('ecc'), async (key, made) => {
      const nonce = p.random(32)
      const pcrs = await tpm.pcrs(selection)
      const { quoted, signature } = await tpm.quote(key, nonce, selection)
      const quote = { attest: quoted, signature: decodeSignature(signature), pcrs }
      const { attest } = await checkQuote(p, quote, { key: decodePublic(made), nonce, selection })
      return {
        at: transport.name,
        manufacturer: (utf8Text(u32be(manufacturer)) ?? '').replaceAll('\0', '').trim(),
        firmware: firmware.map(part => (part ?? 0).toString(16).padStart(8, '0')).join('.'),
        starts: attest.resetCount,
        pin: hex(platformPin(p, made)),
        registers: Object.fromEntries([...pcrs].map(([pcr, value]) => [`PCR ${pcr}`, hex(value)])),
      }
    })
  })
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      device: { type: 'string', default: '/dev/tpmrm0' },
      swtpm: { type: 'string' },
      tcti: { type: 'string' },
      json: { type: 'boolean' },
    },
  })
  const { device, swtpm, tcti, json } = values
  const transport =
    tcti === undefined
      ? swtpm === undefined
        ? new TpmDevice(device)
        : new SwtpmSocket({ path: swtpm })
      : new Tcti(tcti)
  const found = await examine(transport)
  if (json) return console.log(JSON.stringify(found))
  const { registers, ...rest } = found
  for (const [name, value] of Object.entries({ ...rest, ...registers })) console.log(`${name.padEnd(13)} ${value}`)
  console.log('a quote over a fresh question verifies')
}

main().catch(error => {
  console.error(`tpm: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = exitCode(error)
})
