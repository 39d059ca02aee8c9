// The security processor's socket, over whatever signs: for tests that bring a chip of their own.
import { createServer } from 'node:net'
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
      const { reportData } = decode(request, message, MESSAGE_CAP)
      void quote(reportData).then(evidence => {
        connection.write(frame(encodeAs(answer, { kind: 'evidence', reportData, evidence })))
      })
    })
  })
  await new Promise<void>(done => server.listen(path, done))
  return () => void server.close()
}
