// A real TPM, emulated: our commands against it, and tpm2-tools as the judge of what they give.
import crypto from 'node:crypto'
import { closeSync, constants, createReadStream, openSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import koffi from 'koffi'
import { concat, equal, fromHex, hex, u32be } from '../../../attestation/bytes.ts'
import { Malformed, Unavailable } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import {
  commands,
  encodeCommand,
  encodeResponse,
  FRAME_CAP,
  noPassword,
  property,
} from '../../../attestation/tpm/commands.ts'
import { attestationTemplate, decodePublic } from '../../../attestation/tpm/public.ts'
import { checkQuote } from '../../../attestation/tpm/quote.ts'
import { decodeSignature } from '../../../attestation/tpm/signature.ts'
import { Tpm, TpmRefused } from '../../../runtime/attester/tpm/tpm.ts'
import { SwtpmSocket, TpmDevice, type TpmTransport } from '../../../runtime/attester/tpm/transport.ts'
import { startSwtpm, type Swtpm } from '../../support/emulated-tpm.ts'

const p = nodePrimitives(crypto)
const nonce = p.random(32)
const selection = { bank: 'SHA-256', pcrs: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12] } as const
const INDEX = 0x0140_0001

/** The content of an NV index by tpm2-tools, in pieces that the TPM takes. */
function defineNv({ tool, write }: Swtpm, content: Uint8Array): void {
  tool('nvdefine', '0x1400001', '-C', 'o', '-s', String(content.length), '-a', 'ownerread|ownerwrite')
  for (let at = 0; at < content.length; at += 512) {
    write('piece', content.subarray(at, at + 512))
    tool('nvwrite', '0x1400001', '-C', 'o', '-i', 'piece', '--offset', String(at))
  }
}

for (const kind of ['ecc', 'rsa'] as const) {
  test(`a quote by a key that the TPM makes (${kind}) is one that our verifier and tpm2_checkquote accept`, async t => {
    const swtpm = await startSwtpm(t)
    swtpm.tool('pcrextend', `7:sha256=${'ab'.repeat(32)}`)
    const { made, pcrs, quoted, signature } = await Tpm.with(swtpm.transport(), tpm =>
      tpm.withPrimary(attestationTemplate(kind), async (key, own) => ({
        made: own,
        pcrs: await tpm.pcrs(selection),
        ...(await tpm.quote(key, nonce, selection)),
      })),
    )
    const quote = { attest: quoted, signature: decodeSignature(signature), pcrs }
    const found = await checkQuote(p, quote, { key: decodePublic(made), nonce, selection })
    t.deepEqual(found.pcrs.get(7), p.sha256(new Uint8Array(32), fromHex('ab'.repeat(32)) as Uint8Array))

    swtpm.write('public', concat(Uint8Array.of(made.length >> 8, made.length), made))
    swtpm.write('quoted', quoted)
    swtpm.write('signature', signature)
    const check = (question: Uint8Array) =>
      swtpm.tool('checkquote', '-u', 'public', '-m', 'quoted', '-s', 'signature', '-g', 'sha256', '-q', hex(question))
    t.notThrows(() => check(nonce))
    t.throws(() => check(p.random(32)))
  })
}

test('what tpm2-tools reads we read: registers, public areas, NV contents of several pieces, properties', async t => {
  const swtpm = await startSwtpm(t)
  const content = p.random(2048)
  defineNv(swtpm, content)
  swtpm.tool('pcrextend', `12:sha256=${'cd'.repeat(32)}`)
  swtpm.tool('pcrread', 'sha256:0,1,2,3,4,5,6,7,8,9,11,12', '-o', 'registers')
  swtpm.tool('createprimary', '-C', 'e', '-G', 'ecc', '-c', 'primary')
  swtpm.tool('evictcontrol', '-C', 'o', '-c', 'primary', '0x81000003')
  swtpm.tool('readpublic', '-c', '0x81000003', '-o', 'public')
  await Tpm.with(swtpm.transport(), async tpm => {
    t.deepEqual(await tpm.nv(INDEX), content)
    t.is(await tpm.nv(0x0140_0002), null)
    t.deepEqual(concat(...(await tpm.pcrs(selection)).values()), swtpm.file('registers'))
    t.deepEqual(await tpm.publicOf(0x8100_0003), swtpm.file('public').subarray(2))
    t.is(await tpm.publicOf(0x8100_0004), null)
    t.is(await tpm.property(property.manufacturer), 0x49424d00) // "IBM"
    t.is(await tpm.property(0x1ff), null)
    await t.throwsAsync(tpm.pcrs({ bank: 'SHA-256', pcrs: [0, 24] }), { instanceOf: RangeError })
  })
})

test('a hierarchy whose password is not empty: the refusal is named', async t => {
  const swtpm = await startSwtpm(t)
  swtpm.tool('changeauth', '-c', 'endorsement', 'secret')
  await Tpm.with(swtpm.transport(), async tpm => {
    const made = tpm.withPrimary(attestationTemplate('ecc'), async () => t.fail())
    const refused = await t.throwsAsync(made, { instanceOf: TpmRefused, message: /^swtpm at .* TPM2_CreatePrimary$/ })
    t.is(refused?.code, 0x9a2) // TPM_RC_BAD_AUTH of session 1
  })
})

test('nothing is left in the slots, neither of ours nor of a predecessor that was killed', async t => {
  const swtpm = await startSwtpm(t)
  for (let i = 0; i < 2; i++) swtpm.tool('createprimary', '-C', 'e', '-G', 'ecc', '-c', `left${i}`)
  swtpm.tool('startauthsession', '-S', 'session')
  const inUse = () =>
    ['handles-transient', 'handles-loaded-session', 'handles-saved-session'].map(what =>
      swtpm.tool('getcap', what).trim(),
    )
  t.true(inUse().some(handles => handles !== ''))
  await Tpm.with(swtpm.transport(), async tpm => {
    for (let i = 0; i < 5; i++) {
      await t.throwsAsync(
        tpm.withPrimary(attestationTemplate('ecc'), () => Promise.reject(new Error('fell within'))),
        { message: 'fell within' },
      )
    }
  })
  t.deepEqual(inUse(), ['', '', ''])
})

/** A TPM of the test's own, behind our four calls: each answer in its turn. */
function scripted(answers: readonly (Uint8Array | 'never')[]): TpmTransport & { sent: Uint8Array[]; calls: string[] } {
  const sent: Uint8Array[] = []
  const calls: string[] = []
  let giveUp = (_error: Error) => {}
  return {
    name: 'a scripted TPM',
    managed: true,
    sent,
    calls,
    open: async () => void calls.push('open'),
    transmit(command) {
      const answer = answers[sent.length]
      sent.push(command)
      if (answer !== undefined && answer !== 'never') return Promise.resolve(answer)
      return new Promise((_, fail) => {
        giveUp = fail
      })
    },
    async cancel() {
      calls.push('cancel')
      giveUp(new Unavailable('given up'))
    },
    close: async () => void calls.push('close'),
  }
}
const warned = (code: number) => encodeResponse(commands.readPublic, { code, answer: null })
const spoken = encodeResponse(commands.readPublic, {
  code: 0,
  handle: null,
  answer: { public: Uint8Array.of(1), name: noPassword, qualifiedName: noPassword },
})

test('a command is sent again after each warning that asks for it, and after nothing else', async t => {
  const busy = scripted([...[0x922, 0x908, 0x90a].map(warned), spoken])
  t.deepEqual(await Tpm.with(busy, tpm => tpm.publicOf(1)), Uint8Array.of(1))
  t.is(busy.sent.length, 4)
  t.true(busy.sent.every(command => equal(command, busy.sent[0] as Uint8Array)))

  const full = scripted([warned(0x902), spoken])
  await t.throwsAsync(
    Tpm.with(full, tpm => tpm.publicOf(1)),
    { instanceOf: TpmRefused, message: /0x902/ },
  )
  t.is(full.sent.length, 1)
  t.deepEqual(full.calls, ['open', 'close'])
})

test('one that stays busy is unavailable in the end; one that never answers is cancelled', async t => {
  const busy = scripted(Array.from({ length: 20 }, () => warned(0x922)))
  await t.throwsAsync(
    Tpm.with(busy, tpm => tpm.publicOf(1)),
    { instanceOf: TpmRefused },
  )
  t.is(busy.sent.length, 11)
  const dead = scripted(['never'])
  await t.throwsAsync(
    Tpm.with(dead, tpm => tpm.publicOf(1), 20),
    { instanceOf: Unavailable, message: /given up/ },
  )
  t.deepEqual(dead.calls, ['open', 'cancel', 'close'])
})

test('commands go one after the other, whoever asks at once', async t => {
  const swtpm = await startSwtpm(t)
  await Tpm.with(swtpm.transport(), async tpm => {
    const both = await Promise.all([tpm.pcrs(selection), tpm.property(property.nvBufferMax), tpm.pcrs(selection)])
    t.deepEqual(both[0], both[2])
  })
})

test('answers that are none: nonsense is malformed, registers that nobody asked for end the reading', async t => {
  const nonsense = scripted([fromHex('ffff0000000c000000000000') as Uint8Array])
  await t.throwsAsync(
    Tpm.with(nonsense, tpm => tpm.publicOf(1)),
    { instanceOf: Malformed },
  )
  const others = encodeResponse(commands.pcrRead, {
    code: 0,
    handle: null,
    answer: { updateCounter: 1, pcrs: [{ bank: 'SHA-256', pcrs: [3] }], values: [new Uint8Array(32)] },
  })
  const endless = scripted(Array.from({ length: 50 }, () => others))
  await t.throwsAsync(
    Tpm.with(endless, tpm => tpm.pcrs({ bank: 'SHA-256', pcrs: [4] })),
    { instanceOf: Unavailable },
  )
  t.is(endless.sent.length, 1)
})

/** Serves each connection at a socket of the test's own. */
function serve(
  t: ExecutionContext,
  folder: string,
  answer: (command: Uint8Array) => readonly Uint8Array[] | null,
): string {
  const path = join(folder, `s${Math.random()}`)
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.on('data', (command: Buffer) => {
      const pieces = answer(command)
      if (pieces === null) socket.destroy()
      else for (const piece of pieces) socket.write(piece)
    })
  }).listen(path)
  t.teardown(() => void server.close())
  return path
}

test('over a socket: pieces are put together, anything longer or unasked ends the connection', async t => {
  const command = encodeCommand(commands.readPublic, { handles: [1], parameters: {}, password: noPassword })
  const over = async (answer: (command: Uint8Array) => readonly Uint8Array[] | null) => {
    const transport = new SwtpmSocket({ path: serve(t, '/tmp', answer) })
    await transport.open()
    try {
      return await transport.transmit(command)
    } finally {
      await transport.close()
    }
  }
  const pieces = [...spoken].map(byte => Uint8Array.of(byte))
  t.deepEqual(await over(() => pieces), spoken)
  const bad: Record<string, (command: Uint8Array) => readonly Uint8Array[] | null> = {
    'closed the connection': () => null,
    'announces an answer of 5000 bytes': () => [concat(spoken.subarray(0, 2), u32be(5000))],
    'announces an answer of 10 bytes': () => [concat(spoken.subarray(0, 2), u32be(10), spoken.subarray(6))],
    [`more than ${FRAME_CAP} bytes`]: () => [new Uint8Array(FRAME_CAP + 1)],
  }
  for (const [why, answer] of Object.entries(bad)) {
    await t.throwsAsync(over(answer), { instanceOf: Unavailable, message: new RegExp(why) })
  }
})

test('what is not there, or not open, or given up, says so', async t => {
  const nowhere = new SwtpmSocket({ path: '/tmp/no-such-socket' })
  await t.throwsAsync(nowhere.open(), { instanceOf: Unavailable, message: /no-such-socket/ })
  await t.throwsAsync(nowhere.transmit(spoken), { instanceOf: Unavailable, message: /not open/ })
  await t.throwsAsync(new SwtpmSocket({ host: '127.0.0.1', port: 1 }).open(), { instanceOf: Unavailable })
  await t.throwsAsync(new TpmDevice('/dev/no-such-tpm').open(), { instanceOf: Unavailable, message: /no-such-tpm/ })
  await t.throwsAsync(new TpmDevice('/dev/tpmrm0').transmit(spoken), { instanceOf: Unavailable })
  t.deepEqual(
    ['/dev/tpmrm0', '/dev/tpmrm12', '/dev/tpm0'].map(path => new TpmDevice(path).managed),
    [true, true, false],
  )
  const silent = new SwtpmSocket({ path: serve(t, '/tmp', () => []) })
  await silent.open()
  const waiting = silent.transmit(spoken)
  await silent.cancel()
  await t.throwsAsync(waiting, { instanceOf: Unavailable, message: /given up/ })
})

/** A character device that leads to a TPM: a terminal in raw mode, whose other end hands each command on. */
async function deviceTo(t: ExecutionContext, transport: SwtpmSocket): Promise<string> {
  const libc = koffi.load('libc.so.6')
  const call = (definition: string) => libc.func(definition) as (...args: unknown[]) => number
  const master = call('int posix_openpt(int flags)')(constants.O_RDWR | constants.O_NOCTTY)
  const attributes = new Uint8Array(256)
  call('int grantpt(int fd)')(master)
  call('int unlockpt(int fd)')(master)
  const path = (libc.func('const char *ptsname(int fd)') as (fd: number) => string)(master)
  // Held open, or the other end reads an error between two openings.
  const held = openSync(path, constants.O_RDWR | constants.O_NOCTTY)
  call('int tcgetattr(int fd, _Out_ uint8_t *attributes)')(held, attributes)
  call('void cfmakeraw(_Inout_ uint8_t *attributes)')(attributes)
  call('int tcsetattr(int fd, int when, const uint8_t *attributes)')(held, 0, attributes)
  await transport.open()
  const commands = createReadStream('', { fd: master, autoClose: false })
  commands.on('error', () => {})
  commands.on('data', piece => {
    void transport.transmit(new Uint8Array(Buffer.from(piece))).then(answer => {
      for (const byte of answer) writeSync(master, Uint8Array.of(byte))
    })
  })
  t.teardown(async () => {
    closeSync(held)
    commands.destroy()
    await transport.close()
  })
  return path
}

test('a device of the kernel’s kind: written to, and read until the answer is whole', async t => {
  const swtpm = await startSwtpm(t)
  swtpm.tool('pcrextend', `7:sha256=${'ab'.repeat(32)}`)
  const device = new TpmDevice(await deviceTo(t, swtpm.transport()))
  for (let time = 0; time < 2; time++) {
    const found = await Tpm.with(device, tpm => tpm.pcrs({ bank: 'SHA-256', pcrs: [7] }))
    t.deepEqual(found.get(7), p.sha256(new Uint8Array(32), fromHex('ab'.repeat(32)) as Uint8Array))
  }
  await device.open()
  const waiting = device.transmit(Uint8Array.of(0x80)) // no command: nothing answers
  await device.cancel()
  await t.throwsAsync(waiting, { instanceOf: Unavailable, message: /given up/ })
})
