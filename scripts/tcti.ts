/**
 * The fourth way to a TPM: libtss2's TCTI through koffi, for whatever that library can reach from a laptop (a device, an
 * emulator, a remote one), and as the oracle of the other three. Native code: never in the image, never in a role; the
 * only file that names koffi, which is a dependency of development alone.
 */
import koffi, { type KoffiFunc } from 'koffi'
import { Unavailable } from '../attestation/errors.ts'
import { FRAME_CAP } from '../attestation/tpm/commands.ts'
import type { TpmTransport } from '../runtime/attester/tpm/transport.ts'

const LIBRARY = 'libtss2-tctildr.so.0'
const WAIT_FOREVER = -1

/** A pointer of C's; koffi hands it out as an opaque value. */
type Pointer = bigint
type Result = number
type Transmit = KoffiFunc<(context: Pointer, size: number, command: Uint8Array) => Result>
type Receive = KoffiFunc<(context: Pointer, size: number[], answer: Uint8Array, timeout: number) => Result>
type Cancel = KoffiFunc<(context: Pointer) => Result>

/** TSS2_TCTI_CONTEXT_COMMON_V1 (TSS 2.0 TCTI API specification, 3.2.2): what every context starts with. */
function declare() {
  const transmit = koffi.proto('uint32_t TctiTransmit(void *context, size_t size, const uint8_t *command)')
  const receive = koffi.proto(
    'uint32_t TctiReceive(void *context, _Inout_ size_t *size, _Out_ uint8_t *answer, int32_t timeout)',
  )
  const finalize = koffi.proto('void TctiFinalize(void *context)')
  const cancel = koffi.proto('uint32_t TctiCancel(void *context)')
  const common = koffi.struct('TctiContext', {
    magic: 'uint64_t',
    version: 'uint32_t',
    transmit: koffi.pointer(transmit),
    receive: koffi.pointer(receive),
    finalize: koffi.pointer(finalize),
    cancel: koffi.pointer(cancel),
  })
  const library = koffi.load(LIBRARY)
  return {
    common,
    transmit,
    receive,
    cancel,
    initialize: library.func('uint32_t Tss2_TctiLdr_Initialize(const char *name, _Out_ void **context)') as (
      name: string,
      context: (Pointer | null)[],
    ) => Result,
    finalize: library.func('void Tss2_TctiLdr_Finalize(void **context)') as (context: Pointer[]) => void,
  }
}
let declared: ReturnType<typeof declare> | null = null

function library(): ReturnType<typeof declare> {
  try {
    declared ??= declare()
    return declared
  } catch (error) {
    throw new Unavailable(`${LIBRARY}: ${(error as Error).message}; on Debian: apt install tpm2-tools`, 60)
  }
}

type Context = Readonly<{ pointer: Pointer; transmit: Transmit; receive: Receive; cancel: Cancel }>

/** @param configuration as `tpm2-tools` take it: `device:/dev/tpmrm0`, `swtpm:path=/run/swtpm.sock` */
export class Tcti implements TpmTransport {
  readonly name: string
  readonly managed: boolean
  readonly #configuration: string
  #context: Context | null = null
  #underWay: Promise<unknown> = Promise.resolve()
  #giveUp: (error: Error) => void = () => {}

  constructor(configuration: string) {
    this.#configuration = configuration
    this.name = `libtss2 at ${configuration}`
    this.managed = /^(?:tabrmd|device:\/dev\/tpmrm)/.test(configuration)
  }

  #check(result: Result, what: string): void {
    if (result === 0) return
    throw new Unavailable(`${this.name}: ${what} gives 0x${(result >>> 0).toString(16)} (tpm2_rc_decode says more)`)
  }

  async open(): Promise<void> {
    const { initialize, common, transmit, receive, cancel } = library()
    const held: (Pointer | null)[] = [null]
    this.#check(initialize(this.#configuration, held), 'Tss2_TctiLdr_Initialize')
    const pointer = held[0] as Pointer
    const calls = koffi.decode(pointer, common) as Record<'transmit' | 'receive' | 'cancel', Pointer>
    this.#context = {
      pointer,
      transmit: koffi.decode(calls.transmit, transmit) as Transmit,
      receive: koffi.decode(calls.receive, receive) as Receive,
      cancel: koffi.decode(calls.cancel, cancel) as Cancel,
    }
  }

  async transmit(command: Uint8Array): Promise<Uint8Array> {
    if (this.#context === null) throw new Unavailable(`${this.name} is not open`)
    const { pointer, transmit, receive } = this.#context
    this.#check(transmit(pointer, command.length, command), 'Tss2_Tcti_Transmit')
    const size = [FRAME_CAP]
    const answer = new Uint8Array(FRAME_CAP)
    // On a thread of its own: it waits as long as the TPM thinks.
    const received = new Promise<Result>((done, fail) => {
      receive.async(pointer, size, answer, WAIT_FOREVER, (error: Error | null, code: Result) =>
        error === null ? done(code) : fail(error),
      )
    })
    this.#underWay = received.catch(() => {})
    const { promise: givenUp, reject } = Promise.withResolvers<never>()
    this.#giveUp = reject
    const result = await Promise.race([received, givenUp])
    this.#check(result, 'Tss2_Tcti_Receive')
    return answer.slice(0, size[0])
  }

  /** Not every TCTI passes this on to the TPM; the one who waits is let go all the same. */
  async cancel(): Promise<void> {
    if (this.#context !== null) this.#context.cancel(this.#context.pointer)
    this.#giveUp(new Unavailable(`${this.name}: the command was given up`))
  }

  /** Waits for a command under way: the library's memory cannot be taken from under it. */
  async close(): Promise<void> {
    const context = this.#context
    if (context === null) return
    this.#context = null
    await this.#underWay
    library().finalize([context.pointer])
  }
}
