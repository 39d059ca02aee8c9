/** How a command ends when it does not succeed: what was wrong, what to do next, and the exit code of its kind. */
import { type Code, exitCode, Refusal, type Step, Unavailable, Unsupported } from '../../attestation/errors.ts'
import { printable, type Terminal } from './terminal.ts'

const OTHER_MACHINE =
  'Write nothing. Look at `pod log` from another device, ask the hoster for the newest disk, then unlock again.'

const nextByCode: Partial<Record<Code, string>> = {
  'platform-new':
    'If this is the machine you expect: pod unlock --approve-platform PIN (pod inspect URL shows the pin).',
  'owner-mismatch': 'This is not your pod, or not its address: check it with pod inspect URL.',
  measurement: 'Release no keys. If your pod was upgraded, take its reference values: pod unlock --manifest FILE.',
  'manifest-version': 'Release no keys. If you know why the image is older, ask its publisher before you go on.',
  'manifest-expired': 'Get the newest reference values and take them: pod unlock --manifest FILE.',
  locked: 'Unlock it first: pod unlock.',
  lease: 'Release its key again: pod unlock.',
  rollback: OTHER_MACHINE,
  fork: OTHER_MACHINE,
  suspect: OTHER_MACHINE,
  passphrase: 'Try again. There is no way around a lost passphrase but the recovery you prepared.',
  conflict: 'Something else changed it meanwhile: look again (pod get ID), then repeat.',
  'not-found': 'Look what there is: pod list.',
  configuration: 'See the options: pod --help.',
  handshake: 'The pod says no more on purpose. Check the address, the clock of this machine, and pod inspect URL.',
  credential: 'The pod does not accept this key. Check pod devices, and that the address is of this pod.',
  'collateral-missing':
    'Complete the evidence: pod collateral fetch FILE; or name what is missing: pod inspect FILE --collateral FILE.',
  'collateral-expired':
    'Get newer collateral: pod collateral fetch FILE; or judge as of then: pod inspect FILE --at TIME.',
  tcb: "Release no keys. The machine's firmware is too old: ask the hoster for an update.",
}

/** What came from a file or the command line is no answer of a pod's. */
const nextByMalformed: Partial<Record<Step, string>> = {
  data: 'See the options: pod --help, or --help after a command.',
  policy: 'Its form: pod policy schema. A policy to start from: pod policy bare-metal.',
  measurement: 'Is it the file that is meant? See pod measure --help.',
  'reference-values': 'Get it anew: pod measure with --json or --corim, or from its publisher.',
}
const NO_POD = 'Is this the address of a pod? What answered there does not speak its protocol.'

const OLD_COLLATERAL =
  'Release no keys. This device has seen newer collateral: ask the hoster to pass on the newest, or its vendor.'

function nextStep(error: unknown): string {
  if (error instanceof Refusal) {
    if (error instanceof Unsupported) return 'Install a newer version of this program.'
    const { code, step } = error.reason
    if (/npm start -- --help|\bpod (?:init|up)\b|\bchmod\b|\bPOD_HOME\b/.test(error.reason.detail)) return '' // it says so itself
    if (/ is given, but /.test(error.reason.detail)) return ''
    if (/ is damaged: /.test(error.reason.detail)) return 'Put back your copy of this folder.'
    if (code === 'malformed') return nextByMalformed[step] ?? NO_POD
    if (code === 'stale' && step !== 'session') return OLD_COLLATERAL
    if (step === 'credential' && (code === 'conflict' || code === 'not-found'))
      return 'Look what there is: pod devices.'
    if (/PostgreSQL did not open/.test(error.reason.detail))
      return 'Look at the disk of the pod, and at DATABASE_URL where one is set.'
    return nextByCode[code] ?? 'Nothing was released. Look closer: pod inspect URL.'
  }
  if (error instanceof Unavailable) {
    if (error.message.startsWith('the pod did not start')) return '' // it says why
    if (error.message.startsWith('no collateral from '))
      return `Try again in ${error.retryAfterSeconds} s, ask a pod that relays (--via URL), or give it as a file (--collateral FILE).`
    if (!/^no connection|HTTP \d/.test(error.message)) return `Try again in ${error.retryAfterSeconds} s.`
    return 'Is the pod up, and the address right (--url)? Start a local one with pod up, then run the same command again.'
  }
  return 'This is a mistake in this program. Run it with POD_DEBUG=1 and report what it says.'
}

/** Shows the error and returns the exit code. */
export function fail(terminal: Terminal, error: unknown): number {
  const code = exitCode(error)
  const next = nextStep(error)
  const reason = error instanceof Refusal ? error.reason : null
  const whole = error instanceof Error ? error.message : String(error)
  const message = reason?.step === 'data' ? reason.detail : whole
  if (terminal.json && !terminal.answered) {
    const document = { step: reason?.step ?? null, code: reason?.code ?? null, message, next: next || null }
    terminal.show({ error: document, exit: code }, [])
  } else {
    terminal.error(`pod: ${printable(message)}`)
    if (next !== '') terminal.error(`     ${next}`)
  }
  if (process.env['POD_DEBUG'] && error instanceof Error) terminal.error(error.stack ?? '')
  return code
}
