/** Verifiers of others, in a package of their own that no other command reads: installed here when its lock has changed. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import type { Peer, PeerName } from './ratios.ts'

export const peersFolder = resolve(import.meta.dirname, '..', 'peers')
const stampFile = join(peersFolder, 'node_modules', '.lock')

/** What went wrong, in words for whoever ran the command; null where all are at hand. */
export function installPeers(): string | null {
  const lock = readFileSync(join(peersFolder, 'package-lock.json'), 'utf8')
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === lock) return null
  process.stderr.write('Installing the verifiers of others that this is measured against ...\n')
  const path = [process.env['PATH'] ?? '', dirname(process.execPath)].join(delimiter)
  const { error, status, stdout, stderr } = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: peersFolder,
    env: { ...process.env, PATH: path },
    encoding: 'utf8',
  })
  if (status === 0) {
    writeFileSync(stampFile, lock)
    return null
  }
  const output = `${stdout ?? ''}${stderr ?? ''}`
  const missing = /(?:404|ETARGET|notarget)\D*?[\s'"]((?:@[\w.-]+\/)?[\w.-]+@[\w.^~-]*\w)/.exec(output)?.[1]
  if (missing !== undefined)
    return `the package registry does not have ${missing}: nothing is measured against the peers`
  return `npm ci in ${peersFolder} failed: ${error?.message ?? output.trim().split('\n').slice(-5).join('\n')}`
}

type Module = Readonly<{ load: (wasm: Uint8Array) => Promise<void>; prepare: Peer['prepare'] }>

/** The one module that is shipped beside its script. */
export const wasmModule = (): Uint8Array =>
  new Uint8Array(readFileSync(join(peersFolder, 'node_modules', '@phala', 'dcap-qvl-web', 'dcap-qvl-web_bg.wasm')))

export async function loadPeer(name: PeerName): Promise<Peer> {
  const module = (await import(join(peersFolder, `${name}.mjs`))) as Module
  await module.load(wasmModule())
  return { name, prepare: module.prepare }
}
