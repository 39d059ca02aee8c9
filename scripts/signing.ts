/** What the simulated security processor says, whatever carries it: a socket on a laptop, a virtio-serial port of a VM. */
import { encodeEvidence } from '../attestation/evidence.ts'
import type { Launch, Silicon } from '../attestation/silicon/silicon.ts'
import type { LaunchedTd, TdSilicon } from '../attestation/silicon/td.ts'
import { decode, encodeAs } from '../attestation/wire.ts'
import { answer, frame, MESSAGE_CAP, request } from '../runtime/attester/simulated.ts'

/** Encoded Evidence over 64 bytes of report data, about a launch that was measured before. */
export type Sign = (reportData: Uint8Array) => Promise<Uint8Array>

export const snpEvidence =
  (silicon: Silicon, launch: Launch): Sign =>
  async reportData => {
    const { report, certs } = await silicon.report(launch, reportData)
    return encodeEvidence([
      ['snp-report', report],
      ['certs', certs],
    ])
  }

export const tdEvidence =
  (silicon: TdSilicon, launched: LaunchedTd): Sign =>
  async reportData => {
    const { quote, collateral } = await silicon.quote(launched, reportData)
    return encodeEvidence([
      ['tdx-quote', quote],
      ['collateral', collateral],
    ])
  }

async function answerTo(sign: Sign, message: Uint8Array): Promise<Uint8Array> {
  try {
    const { reportData } = decode(request, message, MESSAGE_CAP)
    return encodeAs(answer, { kind: 'evidence', reportData, evidence: await sign(reportData) })
  } catch {
    return encodeAs(answer, { kind: 'refused' })
  }
}

/** Answers one message after the other. */
export function answerer(sign: Sign, send: (framed: Uint8Array) => void): (message: Uint8Array) => void {
  let turn = Promise.resolve()
  return message => {
    turn = turn.then(async () => send(frame(await answerTo(sign, message))))
  }
}
