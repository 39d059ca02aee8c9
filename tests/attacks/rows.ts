/** The rows of PROTOCOL section 6 that this version must stand, by number. */
import { type Attack, each } from './outcome.ts'
import * as evidence from './rows/evidence.ts'
import * as keys from './rows/keys.ts'
import * as limits from './rows/limits.ts'
import * as packages from './rows/packages.ts'
import * as routes from './rows/routes.ts'
import * as session from './rows/session.ts'
import * as store from './rows/store.ts'

export type Row = Readonly<{
  name: string
  attack: Attack
  /** Against a pod of real processes. */
  processes?: true
}>

export const rows: Readonly<Record<number, Row>> = {
  1: { name: 'replay of old evidence with a leaked KEM secret', attack: evidence.replayedEvidence },
  2: { name: 'relay of genuine evidence with the attacker’s KEM key', attack: evidence.relayedEvidence },
  3: { name: 'diversion to another owner’s pod', attack: evidence.diversion },
  4: { name: 'genuine report from a broken foreign chip', attack: evidence.brokenForeignChip },
  5: { name: 'Milan, whose keys leak to its owner', attack: evidence.withdrawnProduct },
  6: { name: 'debuggable or migratable guest', attack: evidence.debuggableGuest },
  7: { name: 'self-reported TCB', attack: evidence.selfReportedTcb },
  8: { name: 'modified image', attack: evidence.modifiedImage },
  10: { name: 'genuine image started with a stranger’s launch config', attack: evidence.strangersLaunchConfig },
  11: { name: 'key injection', attack: session.keyInjection },
  12: { name: 'signature of a broken pod’s session replayed to a good one', attack: session.signatureReplay },
  13: { name: 'Auth replayed to the same pod', attack: session.authReplay },
  14: { name: 'suite downgrade', attack: evidence.suiteDowngrade },
  15: { name: 'reflection between attesting peers', attack: evidence.reflection },
  16: { name: 'quote of another protocol as session quote', attack: evidence.crossProtocolQuote },
  17: { name: 'raw quotes for a service', attack: evidence.rawQuote },
  18: {
    name: 'request replayed, or held back',
    attack: () => each([session.requestReplay(), limits.applicationReplay()]),
    processes: true,
  },
  19: { name: 'upload or download cut', attack: session.truncation },
  20: { name: 'frames swapped, doubled or spliced', attack: session.frameSplice },
  21: { name: 'path read on the wire', attack: session.readingTheWire },
  22: { name: 'error oracle', attack: limits.errorOracle, processes: true },
  23: { name: 'plaintext fallback', attack: session.plaintextFallback },
  24: { name: 'Ed25519 key of small order in a certificate', attack: session.everybodysKey },
  25: { name: 'one message in two encodings', attack: session.malleableEncoding },
  26: { name: 'memory bombs', attack: limits.memoryBomb, processes: true },
  27: { name: 'disk rolled back while off', attack: store.diskRollback, processes: true },
  28: { name: 'single row replayed while on', attack: store.rowReplay, processes: true },
  29: { name: 'rows swapped between ids', attack: store.rowSwap, processes: true },
  30: { name: 'two machines from one launch config', attack: store.twoMachines, processes: true },
  34: { name: 'lease stretched by clock games', attack: keys.stretchedLease },
  36: { name: 'grant escalation', attack: keys.grantEscalation },
  39: { name: 'package that says two things to two readers', attack: packages.equivocation },
  40: { name: 'forged, stripped and swapped Memo packages', attack: packages.forgedPackages },
  44: { name: 'routing id hijacked at the router', attack: routes.hijackedRoute },
  45: { name: 'flood of hellos', attack: limits.helloFlood, processes: true },
  46: { name: 'harvest now, decrypt later', attack: session.harvestedSession },
  47: { name: 'names of prototypes in messages', attack: session.prototypeNames },
  48: { name: 'hints that force new handshakes', attack: session.hintStorm },
  49: { name: 'fallen api forges control messages', attack: session.fallenApi },
}
