// The security processor's socket, over whatever signs: for tests that bring a chip of their own.
import { createServer } from 'node:net'
import { decodeEvidence } from '../../attestation/evidence.ts'
import { decode, encodeAs } from '../../attestation/wire.ts'
import { answer, frame, MESSAGE_CAP, onMessages, request } from '../../runtime/attester/simulated.ts'

/** Serves reports at `path` until closed; `quote` gives evidence over 64 bytes of report data. */
export async function serveSilicon(
  path: string,
  quote: (data: Uint8Array) => Promise<Uint8Array>,
): Promise<() => void> {
  const server = createServer(connection => {
    connection.on('error', () => {})
    onMessages(connection, message => {
      void quote(decode(request, message, MESSAGE_CAP).reportData).then(evidence => {
        const items = new Map(decodeEvidence(evidence))
        const report = items.get('snp-report') as Uint8Array
        const certs = items.get('certs') as Uint8Array
        connection.write(frame(encodeAs(answer, { kind: 'report', report, certs })))
      })
    })
  })
  await new Promise<void>(done => server.listen(path, done))
  return () => void server.close()
}
