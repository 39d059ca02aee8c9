/**
 * The defences of PROTOCOL section 6, by row: each a rule, as the edits that take it out of a copy of the sources. An
 * attack has to fail as shipped and to succeed without all of its row's defences. `independent` names the rows in which
 * each defence is enough by itself, so that the attack has to fail as long as one of them stands.
 */
import type { Edit } from '../support/altered.ts'

export type Defence = readonly Edit[]

const transcript = 'attestation/session/transcript.ts'
const client = 'attestation/session/client.ts'
const pod = 'attestation/session/pod.ts'
const streams = 'attestation/session/streams.ts'
const credentials = 'attestation/session/credentials.ts'
const common = 'attestation/rules.ts'
const rules = 'attestation/snp/rules.ts'
const endorsement = 'attestation/snp/endorsement.ts'
const wire = 'attestation/wire.ts'
const items = 'attestation/items.ts'
const attester = 'runtime/attester/attester.ts'
const exchange = 'runtime/edge/exchange.ts'
const release = 'runtime/keyholder/release.ts'
const requests = 'runtime/keyholder/requests.ts'
const route = 'attestation/session/route.ts'
const registry = 'runtime/host/registry.ts'
const containers = 'client/containers/sealed.ts'
const memoV1 = 'client/memo/v1.ts'

const edit = (file: string, find: string, replace: string): Defence => [{ file, find, replace }]
/** The condition of an `if` that refuses, or of one that lets pass. */
const never = (file: string, condition: string): Defence => edit(file, `if (${condition})`, 'if (false)')
const always = (file: string, condition: string): Defence => edit(file, `if (${condition})`, 'if (true)')

const nonceQuoted = edit(transcript, "hash(p, 'pas1 th0', hello, core)", "hash(p, 'pas1 th0', core)")
const ownerInEvidence = never(common, '!equal(launched, launchHash)')
const ownerInHello = edit(client, '  checkOwner(p, received, given.launch)\n', '')
const reportDataOf = (parts: string) =>
  edit(transcript, "'pas1 report-data', purpose, role, th0", `'pas1 report-data', ${parts}`)
/** No item key for a row that its bucket does not name. */
const mapNamesRow = edit(
  requests,
  "return item.state === 'current' && item.version === row.version && equal(item.rowHash, row.rowHash)",
  'return true',
)

export const defences: Readonly<Record<number, readonly Defence[]>> = {
  1: [nonceQuoted],
  // In the core's encoding 65 bytes stand before the KEM key's 1216.
  2: [
    edit(
      transcript,
      "hash(p, 'pas1 th0', hello, core)",
      "hash(p, 'pas1 th0', hello, core.filter((_, i) => i < 65 || i >= 65 + 1216))",
    ),
  ],
  3: [ownerInEvidence, ownerInHello],
  4: [never(common, '!approved.some(known => equal(known, pin))')],
  5: [never(rules, '!approved.includes(product)')],
  6: [
    never(rules, 'bit(report.policy, guestPolicy.debug)'),
    never(rules, 'bit(report.policy, guestPolicy.migration)'),
    never(rules, '!report.reportIdMa.every(byte => byte === 0xff)'),
  ],
  7: [
    never(endorsement, '!equal(certified, report.reportedTcb)'),
    edit(
      'attestation/appraise.ts',
      'firmware(report, product, endorsement.tcb)',
      "firmware(report, product, (await import('./snp/tcb.ts')).decodeTcb(product, report.reportedTcb, ''))",
    ),
  ],
  8: [edit(common, 'tee === platform && measurements.some(known => equal(known, measurement))', 'tee === platform')],
  10: [ownerInEvidence, ownerInHello],
  11: [
    never(pod, '!(await signatureValid(p, principal.key, message, payload.signature))'),
    edit(release, 'else if (!equalConstantTime(expected, value)) throw', 'else if (false) throw'),
  ],
  12: [edit(transcript, "['pas1 client-auth', th1, p.sha256(enc), p.sha256(credential)]", "['pas1 client-auth']")],
  13: [
    edit('runtime/keyholder/handshake.ts', '    this.#pending.delete(hex(sid))\n', ''),
    edit(pod, '    this.#secret = null\n', ''),
  ],
  14: [nonceQuoted],
  15: [reportDataOf('purpose, th0')],
  16: [reportDataOf('role, th0'), never(attester, "purpose !== 'session'")],
  17: [
    never(attester, 'transcript.length !== 32'),
    edit(attester, "quote(reportData(p, purpose, 'pod', transcript))", 'quote(transcript)'),
  ],
  18: [
    never('runtime/keyholder/control.ts', '!session.window.accept(n)'),
    never('runtime/api/carrier.ts', '!this.#session.window.accept(this.#n)'),
  ],
  19: [never(streams, '!this.#complete')],
  20: [
    edit(streams, 'nonce.setUint32(7, index)', 'nonce.setUint32(7, 0)'),
    edit(streams, "'pas1 msg', [direction, n, salt]", "'pas1 msg', [direction, salt]"),
  ],
  21: [edit('client/session/session.ts', '`pas/s/${live.sid}`', '`pas/s/${live.sid}?${path}`')],
  22: [
    edit('runtime/keyholder/keyholder.ts', '      await floor\n', ''),
    edit(exchange, 'MIN_FAILURE_MS - (this.around.now() - this.startedAt)', '0'),
  ],
  23: [
    edit(
      'client/session/exchange.ts',
      'const body = frames(responseOpener(p, keys, n), carrier)',
      'const body = carrier[Symbol.asyncIterator]()',
    ),
  ],
  24: [never('attestation/primitives/ed25519.ts', 'smallOrderY.has(hex(y))')],
  25: [never(wire, 'argument < least'), never(wire, 'reader.remaining !== 0')],
  26: [
    [
      ...never(exchange, "Number(this.request.headers['content-length'] ?? 0) > cap"),
      ...always(exchange, 'size <= cap'),
    ],
  ],
  27: [edit('runtime/keyholder/ledger-stored.ts', '    checkExtends(keys, knownHead, head, stored.consistency)\n', '')],
  28: [mapNamesRow],
  29: [
    mapNamesRow,
    edit(
      'attestation/session/release.ts',
      "kdf(p, ck, 'pas1 item', [itemId, version, salt])",
      "kdf(p, ck, 'pas1 item', [version, salt])",
    ),
    [
      ...edit(items, 'encodeAs(aad, head)', 'new Uint8Array()'),
      ...edit(items, 'encodeAs(aad, item)', 'new Uint8Array()'),
    ],
  ],
  30: [
    never('client/session/heads.ts', 'known !== undefined && !equal(known, head.logRoot)'),
    never('client/session/heads.ts', 'proof === undefined && !this.#continues(head)'),
    edit(
      release,
      'if (verifyConsistency(pod.ports.p, known.size, head.size, known.logRoot, head.logRoot, path)) return',
      'return',
    ),
  ],
  34: [
    always(requests, 'isOwners(principal)'),
    edit('runtime/keyholder/clock.ts', 'if (time <= now) return', 'if (time === 0) return'),
  ],
  36: [
    edit(requests, 'if (verbs.some(each => mayUse(principal, each, coll))) return', 'return'),
    never('runtime/keyholder/sessions.ts', "principal.kind !== 'root' && this.#clock.now() >= principal.notAfter"),
    never(credentials, 'judging.now >= it.notAfter'),
  ],
  39: [
    never('client/containers/hybrid.ts', '!equalConstantTime(headerMac(p, fileKey, unsigned), mac)'),
    always(containers, 'recipients.length === whole.recipients && recipients.some(hash => equal(hash, own))'),
  ],
  40: [
    never(memoV1, '!(await signer.signed(utf8(data), signature))'),
    always(memoV1, 'legacy'),
    never(containers, 'expected.senders !== null && !expected.senders.some(sender => same(sender, opened.sender))'),
    never(containers, 'expected.about !== null && !sameAbout(about, expected.about)'),
  ],
  44: [
    never(route, '!equal(route.rid, routingId(p, route.owner.key))'),
    never(route, '!(await signatureValid(p, route.owner, signingInput(p, signed), signature))'),
    never(registry, 'base32(route.rid) !== rid'),
    never(registry, 'before !== undefined && route.sequence <= before'),
  ],
  45: [
    edit('runtime/edge/server.ts', "kind === 'hello' ? this.#hellos.take(request.socket.remoteAddress ?? '') : 0", '0'),
  ],
  46: [
    edit(
      'attestation/primitives/node.ts',
      "digest('sha3-256', [mlkem, x25519, ciphertext, recipient, XWING_LABEL])",
      "digest('sha3-256', [x25519, ciphertext, recipient, XWING_LABEL])",
    ),
  ],
  47: [edit(wire, 'Object.hasOwn(variants, kind) ? variants[kind] : undefined', 'variants[kind]')],
  48: [always('client/session/budget.ts', 'this.#started.length < MAX_HANDSHAKES')],
  49: [
    [
      ...edit(transcript, "derive('pas1 ctl c2s')", "derive('pas1 c2s')"),
      ...edit(transcript, "derive('pas1 ctl s2c')", "derive('pas1 s2c')"),
    ],
  ],
}

export const independent: readonly number[] = [3, 7, 10, 13, 16, 17, 29]
