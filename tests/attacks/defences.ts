/**
 * The defences of PROTOCOL section 6, by row, as edits that take them out of a copy of the sources. Where two hold
 * independently, both are taken out; `alone` names those of which each one holds by itself.
 */
import type { Edit } from '../support/altered.ts'

const transcript = 'attestation/session/transcript.ts'
const client = 'attestation/session/client.ts'
const pod = 'attestation/session/pod.ts'
const rules = 'attestation/snp/rules.ts'
const endorsement = 'attestation/snp/endorsement.ts'
const appraise = 'attestation/appraise.ts'
const streams = 'attestation/session/streams.ts'
const wire = 'attestation/wire.ts'
const attester = 'runtime/attester/simulated.ts'

/** The condition of an `if` that throws. */
const never = (file: string, condition: string, instead = 'false'): Edit => ({
  file,
  find: `if (${condition})`,
  replace: `if (${instead})`,
})

export const nonceQuoted: Edit = {
  file: transcript,
  find: "hash(p, 'pas1 th0', hello, core)",
  replace: "hash(p, 'pas1 th0', core)",
}
/** In the core's encoding 65 bytes stand before the key's 1216. */
export const kemKeyQuoted: Edit = {
  file: transcript,
  find: "hash(p, 'pas1 th0', hello, core)",
  replace: "hash(p, 'pas1 th0', hello, core.filter((_, i) => i < 65 || i >= 65 + 1216))",
}
export const platformPinned = never(rules, '!approved.some(known => equal(known, pin))')
export const measurementChecked: Edit = {
  file: rules,
  find: 'tee === platform && measurements.some(known => equal(known, report.measurement))',
  replace: 'tee === platform',
}
export const ownerInEvidence = never(rules, '!equal(report.hostData, launchHash)')
export const ownerInHello: Edit = { file: client, find: '  checkOwner(p, received, given.launch)\n', replace: '' }
export const ownerSignature = never(pod, '!(await signatureValid(p, principal.key, message, payload.signature))')

export const defences: Readonly<Record<number, readonly Edit[]>> = {
  1: [nonceQuoted],
  2: [kemKeyQuoted],
  3: [ownerInEvidence, ownerInHello],
  4: [platformPinned],
  5: [never(rules, '!approved.includes(product)')],
  6: [
    never(rules, 'bit(report.policy, guestPolicy.debug)'),
    never(rules, 'bit(report.policy, guestPolicy.migration)'),
    never(rules, '!report.reportIdMa.every(byte => byte === 0xff)'),
  ],
  7: [
    never(endorsement, '!equal(certified, report.reportedTcb)'),
    {
      file: appraise,
      find: 'firmware(report, product, endorsement.tcb)',
      replace: "firmware(report, product, (await import('./snp/tcb.ts')).decodeTcb(product, report.reportedTcb, ''))",
    },
  ],
  8: [measurementChecked],
  10: [ownerInEvidence, ownerInHello],
  11: [
    ownerSignature,
    {
      file: 'runtime/keyholder/release.ts',
      find: 'else if (!equalConstantTime(expected, value)) throw',
      replace: 'else if (false) throw',
    },
  ],
  12: [
    {
      file: transcript,
      find: "['pas1 client-auth', th1, p.sha256(enc), p.sha256(credential)]",
      replace: "['pas1 client-auth']",
    },
  ],
  13: [
    { file: 'runtime/keyholder/handshake.ts', find: '    this.#pending.delete(hex(sid))\n', replace: '' },
    { file: pod, find: '    this.#secret = null\n', replace: '' },
  ],
  14: [nonceQuoted],
  15: [
    { file: transcript, find: "'pas1 report-data', purpose, role, th0", replace: "'pas1 report-data', purpose, th0" },
  ],
  16: [
    { file: transcript, find: "'pas1 report-data', purpose, role, th0", replace: "'pas1 report-data', role, th0" },
    never(attester, "purpose !== 'session'"),
  ],
  17: [
    never(attester, 'transcript.length !== 32'),
    { file: attester, find: "quote(reportData(p, purpose, 'pod', transcript))", replace: 'quote(transcript)' },
  ],
  18: [never('runtime/keyholder/control.ts', '!session.window.accept(n)')],
  19: [never(streams, '!this.#complete')],
  20: [
    { file: streams, find: 'nonce.setUint32(7, index)', replace: 'nonce.setUint32(7, 0)' },
    { file: streams, find: "'pas1 msg', [direction, n, salt]", replace: "'pas1 msg', [direction, salt]" },
  ],
  21: [
    {
      file: 'client/session/session.ts',
      find: '`pas/s/${live.sid}`',
      replace: '`pas/s/${live.sid}?${path}`',
    },
  ],
  23: [
    {
      file: 'client/session/exchange.ts',
      find: 'const body = frames(responseOpener(p, keys, n), carrier)',
      replace: 'const body = carrier[Symbol.asyncIterator]()',
    },
  ],
  24: [never('attestation/primitives/ed25519.ts', 'smallOrderY.has(hex(y))')],
  25: [never(wire, 'argument < least'), never(wire, 'reader.remaining !== 0')],
  46: [
    {
      file: 'attestation/primitives/node.ts',
      find: "digest('sha3-256', [mlkem, x25519, ciphertext, recipient, XWING_LABEL])",
      replace: "digest('sha3-256', [x25519, ciphertext, recipient, XWING_LABEL])",
    },
  ],
  47: [
    {
      file: wire,
      find: 'Object.hasOwn(variants, kind) ? variants[kind] : undefined',
      replace: 'variants[kind]',
    },
  ],
  48: [never('client/session/budget.ts', 'this.#started.length < MAX_HANDSHAKES', 'true')],
  49: [
    { file: transcript, find: "derive('pas1 ctl c2s')", replace: "derive('pas1 c2s')" },
    { file: transcript, find: "derive('pas1 ctl s2c')", replace: "derive('pas1 s2c')" },
  ],
}

/** Rows in which each defence holds alone. */
export const alone: readonly number[] = [3, 7, 10, 13, 16, 17]
