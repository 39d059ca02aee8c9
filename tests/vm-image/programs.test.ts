import * as nodeCrypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import test from 'ava'
import fc from 'fast-check'
import { authenticode, loadedSections } from '../../attestation/event-log/pe.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { pcr11 } from '../../attestation/tpm/uki.ts'
import { elfNeeds, isElf } from '../../vm-image/elf.ts'
import { ImageError } from '../../vm-image/errors.ts'
import { unifiedKernelImage } from '../../vm-image/uki.ts'
import { peImage } from '../support/firmware.ts'

const p = nodePrimitives(nodeCrypto)
const text = (value: string) => new TextEncoder().encode(value)

const node = new Uint8Array(readFileSync(process.execPath))

test('what a program needs is read from it', t => {
  const { interpreter, libraries } = elfNeeds(node, 'node')
  t.is(interpreter, '/lib64/ld-linux-x86-64.so.2')
  t.true(libraries.includes('libc.so.6') && libraries.includes('libstdc++.so.6'))
  t.false(isElf(text('#!/bin/sh\n')))
})

test('what is no program for this processor is refused with the next step', t => {
  t.throws(() => elfNeeds(text('#!/bin/sh\n'), '/bin/x'), { instanceOf: ImageError, message: /\/bin\/x is no program/ })
  const arm = node.slice(0, 4096)
  arm[18] = 183
  t.is(t.throws(() => elfNeeds(arm, '/bin/x'), { instanceOf: ImageError }).exitCode, 20)
  t.throws(() => elfNeeds(node.slice(0, 4096), '/bin/x'), { instanceOf: ImageError, message: /is a damaged program/ })
})

test('a damaged program is read or refused, never anything else', t => {
  const head = node.slice(0, 8192)
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(1023), fc.nat(255)), { minLength: 1, maxLength: 6 }), changes => {
      const changed = head.slice()
      for (const [at, value] of changes) changed[at] = value
      try {
        elfNeeds(changed, 'x')
      } catch (error) {
        return error instanceof ImageError
      }
      return true
    }),
  )
  t.pass()
})

/** A stub whose headers say what a real one's do: alignments of 4096 and 512. */
function stub(): Uint8Array {
  const image = peImage([
    { name: '.text', content: new Uint8Array(512).fill(1) },
    { name: '.data', content: new Uint8Array(512).fill(2) },
  ])
  const view = new DataView(image.buffer)
  const optional = 64 + 24
  view.setUint32(optional + 32, 4096, true)
  view.setUint32(optional + 36, 512, true)
  return image
}

const sections = [
  { name: '.cmdline', content: text('quiet') },
  { name: '.initrd', content: new Uint8Array(513).fill(7) },
  { name: '.linux', content: new Uint8Array(70_000).fill(9) },
]

test('the sections of a unified kernel image are found where the verifier looks, and can be measured', t => {
  const image = unifiedKernelImage(stub(), sections)
  const loaded = loadedSections(image)
  for (const { name, content } of sections) t.deepEqual(loaded.get(name), content, name)
  t.deepEqual(loaded.get('.text'), new Uint8Array(512).fill(1))
  t.is(authenticode(p, 'SHA-256', image).length, 32)
  t.is(pcr11(p, 'SHA-256', image).length, 32)
})

test('sections lie on pages of their own, one behind the other', t => {
  const view = new DataView(unifiedKernelImage(stub(), sections).buffer)
  const rows = Array.from({ length: 3 }, (_, i) => 64 + 24 + view.getUint16(64 + 20, true) + 40 * (2 + i))
  const places = rows.map(at => [view.getUint32(at + 12, true), view.getUint32(at + 8, true)] as const)
  for (const [i, [address, size]] of places.entries()) {
    t.is(address % 4096, 0)
    t.true((places[i + 1]?.[0] ?? view.getUint32(64 + 24 + 56, true)) >= address + size)
  }
})

test('a stub that is none, or has no room, is refused', t => {
  t.throws(() => unifiedKernelImage(new Uint8Array(4096), sections), {
    instanceOf: ImageError,
    message: /no EFI program/,
  })
  const many = Array.from({ length: 40 }, (_, i) => ({ name: `.s${i}`, content: text('x') }))
  t.throws(() => unifiedKernelImage(stub(), many), { instanceOf: ImageError, message: /no room/ })
})
