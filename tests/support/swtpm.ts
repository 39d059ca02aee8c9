// A real TPM 2.0 in software (swtpm), driven by tpm2-tools: an oracle that none of our code had a part in.
import { execFile, spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { hex } from '../../attestation/bytes.ts'

const run = promisify(execFile)
const needed = ['swtpm', 'tpm2_createprimary', 'tpm2_quote']
/** Programs that are not installed here. */
export const missingTools = needed.filter(name => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0)

export type SoftwareTpm = Readonly<{
  extend: (pcr: number, sha256: Uint8Array) => Promise<void>
  /** Paths of TPMS_ATTEST, TPMT_SIGNATURE, TPM2B_PUBLIC and the register values, as tpm2_quote and its kin write them. */
  quote: (kind: 'rsassa' | 'ecdsa', pcrs: readonly number[], question: Uint8Array) => Promise<QuoteFiles>
}>
export type QuoteFiles = Readonly<{ attest: string; signature: string; key: string; values: string }>

const algorithms = { rsassa: 'rsa2048:rsassa-sha256:null', ecdsa: 'ecc256:ecdsa-sha256:null' } as const
const ATTRIBUTES = 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign'
const START_MS = 30_000

/** Runs `use` with a TPM that was just started, and ends it afterwards. */
export async function withSoftwareTpm<T>(use: (tpm: SoftwareTpm) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'pod-swtpm-'))
  const socket = join(folder, 's')
  const state = ['--tpm2', '--tpmstate', `dir=${folder}`, '--flags', 'not-need-init,startup-clear']
  const sockets = ['--server', `type=unixio,path=${socket}`, '--ctrl', `type=unixio,path=${socket}.ctrl`]
  const swtpm = spawn('swtpm', ['socket', ...state, ...sockets], { stdio: 'ignore' })
  const env = { PATH: process.env['PATH'], TPM2TOOLS_TCTI: `swtpm:path=${socket}` }
  const tool = async (name: string, ...args: readonly string[]) => {
    await run(name, [...args], { env, timeout: 60_000 })
    // Nothing here takes turns with the few slots that a TPM has for loaded objects.
    if (name !== 'tpm2_pcrextend') await run('tpm2_flushcontext', ['-t'], { env, timeout: 60_000 })
  }
  try {
    const since = Date.now()
    while (!existsSync(`${socket}.ctrl`) && Date.now() - since < START_MS) await sleep(50)
    return await use({
      extend: (pcr, sha256) => tool('tpm2_pcrextend', `${pcr}:sha256=${hex(sha256)}`),
      async quote(kind, pcrs, question) {
        const [attest, signature, key, values] = ['msg', 'sig', 'pub', 'pcrs'].map(end =>
          join(folder, `${kind}.${end}`),
        )
        const files = { attest, signature, key, values } as QuoteFiles
        const context = join(folder, `${kind}.ctx`)
        await tool('tpm2_createprimary', '-C', 'e', '-G', algorithms[kind], '-a', ATTRIBUTES, '-c', context)
        await tool('tpm2_readpublic', '-c', context, '-o', files.key)
        const asked = ['-l', `sha256:${pcrs.join(',')}`, '-q', hex(question), '-g', 'sha256']
        const written = ['-m', files.attest, '-s', files.signature, '-o', files.values]
        await tool('tpm2_quote', '-c', context, ...asked, ...written)
        return files
      },
    })
  } finally {
    swtpm.kill()
    await rm(folder, { recursive: true, force: true })
  }
}
