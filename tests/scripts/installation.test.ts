import crypto from 'node:crypto'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { equal } from '../../attestation/bytes.ts'
import { openReferenceValues, ReferenceValues } from '../../attestation/reference-values.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { measureRoles, openInstallation, snpMeasured } from '../../scripts/installation.ts'

const p = nodePrimitives(crypto)
const temporary = () => mkdtempSync(join(tmpdir(), 'silicon-'))

function rolesIn(folder: string): string {
  for (const role of ['api', 'edge', 'keyholder', 'migrate', 'supervisor'])
    writeFileSync(join(folder, `${role}.mjs`), role)
  return folder
}

test('one changed byte in any role is another measurement; what is not started is not measured', t => {
  const folder = rolesIn(temporary())
  t.teardown(() => rmSync(folder, { recursive: true }))
  const before = measureRoles(folder)
  t.is(before.length, 48)
  for (const role of ['api', 'edge', 'keyholder', 'migrate', 'supervisor']) {
    const copy = temporary()
    cpSync(folder, copy, { recursive: true })
    const file = join(copy, `${role}.mjs`)
    const bytes = readFileSync(file)
    bytes[0] = (bytes[0] as number) ^ 1
    writeFileSync(file, bytes)
    t.false(equal(before, measureRoles(copy)), role)
    rmSync(file)
    t.throws(() => measureRoles(copy), { code: 'ENOENT' })
    rmSync(copy, { recursive: true })
  }
  writeFileSync(join(folder, 'silicon.mjs'), 'beneath the pod')
  t.deepEqual(measureRoles(folder), before)
})

test("the installation's release key signs a next version for each new measurement, and the same one for the same", async t => {
  const folder = temporary()
  t.teardown(() => rmSync(folder, { recursive: true }))
  const [a, b] = [new Uint8Array(48).fill(1), new Uint8Array(48).fill(2)]
  const open = async () => openInstallation(await StateFolder.open(folder))
  const first = await open()
  t.is((await first.manifestFor(snpMeasured(a), 1000)).version, 1)
  t.is((await first.manifestFor(snpMeasured(a), 2000)).version, 1)
  const second = await (await open()).manifestFor(snpMeasured(b), 3000)
  t.is(second.version, 2)
  t.deepEqual((await open()).releaseKey, first.releaseKey)
  t.is((await first.manifestFor(snpMeasured(b), 3000 + 360 * 24 * 3600)).version, 3, 'signed again before it ends')
  const release = { threshold: 1, keys: [[1, first.releaseKey]] as const }
  t.is(ReferenceValues.body(await openReferenceValues(p, second.bytes, release)).entries[0]?.measurements[0]?.[0], 2)
})
