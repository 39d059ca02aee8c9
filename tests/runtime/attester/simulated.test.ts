// The pod's end of the simulated security processor: whatever the host says there, an answer about other report data is
// not taken, and a message that cannot be one ends the exchange.
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import * as fc from 'fast-check'
import { Unavailable } from '../../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence } from '../../../attestation/evidence.ts'
import { reportData } from '../../../attestation/session/transcript.ts'
import { decode, encodeAs } from '../../../attestation/wire.ts'
import {
  answer,
  frame,
  Frames,
  MESSAGE_CAP,
  onMessages,
  request,
  simulatedAttester,
} from '../../../runtime/attester/simulated.ts'
import { filled } from '../../support/keyholder.ts'
import { p } from '../../support/world.ts'

const transcript = filled(32, 5)
const evidence = encodeEvidence([['snp-report', filled(1184, 1)]])
const about = (data: Uint8Array, shown: Uint8Array = evidence) =>
  frame(encodeAs(answer, { kind: 'evidence', reportData: data, evidence: shown }))

function attesterOf(t: ExecutionContext, host: (socket: Socket, asked: Uint8Array) => void) {
  const folder = mkdtempSync(join(tmpdir(), 'psp-'))
  const path = join(folder, 'socket')
  const server = createServer(socket => {
    socket.on('error', () => {})
    onMessages(socket, message => host(socket, decode(request, message, MESSAGE_CAP).reportData))
  }).listen(path)
  t.teardown(() => {
    server.close()
    rmSync(folder, { recursive: true })
  })
  return simulatedAttester(p, path)
}

test('what it asks for is the report data of a session, and what it gets it passes on', async t => {
  const asked: Uint8Array[] = []
  const attester = attesterOf(t, (socket, data) => {
    asked.push(data)
    socket.write(about(data))
  })
  t.deepEqual(decodeEvidence(await attester.evidence('session', transcript)), decodeEvidence(evidence))
  t.deepEqual(asked, [reportData(p, 'session', 'pod', transcript)])
})

test('late answers, broken ones and evidence that is none are passed over', async t => {
  const attester = attesterOf(t, (socket, data) => {
    socket.write(about(filled(64, 9)))
    socket.write(frame(filled(100, 0xff)))
    socket.write(frame(new Uint8Array()))
    socket.write(about(data, filled(40, 3)))
    socket.write(about(data))
  })
  t.deepEqual(await attester.evidence('session', transcript), evidence)
})

test('a refusal, a closed connection and a length over the cap are its being unavailable', async t => {
  const hosts: ((socket: Socket) => void)[] = [
    socket => void socket.write(frame(encodeAs(answer, { kind: 'refused' }))),
    socket => socket.destroy(),
    socket => void socket.write(Uint8Array.of(0, 1, 0, 1)),
    socket => void socket.end(about(filled(64, 9))),
  ]
  for (const host of hosts) {
    await t.throwsAsync(attesterOf(t, host).evidence('session', transcript), { instanceOf: Unavailable })
  }
})

test('messages come out whole, whatever pieces they arrive in; a length over the cap throws', t => {
  const anyMessages = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 6 })
  fc.assert(
    fc.property(anyMessages, fc.infiniteStream(fc.integer({ min: 1, max: 200 })), (messages, sizes) => {
      const all = Buffer.concat(messages.map(frame))
      const frames = new Frames()
      const found: Uint8Array[] = []
      for (let at = 0; at < all.length; ) {
        const size = sizes.next().value ?? 1
        found.push(...frames.take(all.subarray(at, at + size)))
        at += size
      }
      t.deepEqual(found, messages)
    }),
  )
  const head = (length: number) => {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32BE(length)
    return bytes
  }
  t.deepEqual(new Frames().take(head(MESSAGE_CAP)), [])
  t.throws(() => new Frames().take(head(MESSAGE_CAP + 1)), { instanceOf: RangeError })
})
