// A pod in the place of a virtual machine: hosted-pod.ts OWNER_FOLDER PORT runs it until SIGTERM.
import { resolve } from 'node:path'
import { StateFolder } from '../../client/owner/folder.ts'
import { startLocalPod } from '../../scripts/local-pod.ts'

const [folder = '', port = '0'] = process.argv.slice(2)
const pod = await startLocalPod({
  folder: await StateFolder.open(folder),
  rolesDir: resolve(import.meta.dirname, '../../build/roles'),
  passphrase: async () => new Uint8Array(),
  port: Number(port),
})
process.on('SIGTERM', () => void pod.stop().then(() => process.exit(0)))
void pod.ended.then(() => process.exit(1))
