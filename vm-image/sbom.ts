/** What the image is made of, as SPDX 2.3: packages by hash, the files of each, and what the bundles hold. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Bundle } from './contents.ts'
import { type Lock, sha256Hex } from './lock.ts'
import { productOf } from './measurements.ts'

export type SbomInputs = Readonly<{
  root: string
  lock: Lock
  profile: string
  version: string
  bundles: readonly Bundle[]
  firmware: Readonly<{ sha256: string; package: Readonly<{ name: string; version: string; sha256: string }> }>
}>

type Component = Readonly<{
  name: string
  version: string
  purl: string
  algorithm: 'SHA256' | 'SHA512'
  checksum: string
  licence: string
}>

const debian = (name: string, version: string) => `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=amd64`

/** Names of the npm packages that stand in a bundle's inputs. */
export function bundledPackages(bundles: readonly Bundle[]): string[] {
  const names = bundles.flatMap(({ inputs }) =>
    inputs.flatMap(path => /^(node_modules\/(?:.*\/node_modules\/)?(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []),
  )
  return [...new Set(names)].toSorted()
}

type NpmPackage = Readonly<{ version?: string; integrity?: string; license?: string }>

function npmComponents({ root, lock, bundles }: SbomInputs): Component[] {
  const file = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, NpmPackage>
  }
  return [`node_modules/${lock.node.package}`, ...bundledPackages(bundles)].map(path => {
    const { version = '', integrity = '', license = 'NOASSERTION' } = file.packages[path] ?? {}
    const name = path.replace(/^.*node_modules\//, '')
    const checksum = Buffer.from(integrity.replace(/^sha512-/, ''), 'base64').toString('hex')
    const purl = `pkg:npm/${name.replace('@', '%40')}@${version}`
    return { name, version, purl, algorithm: 'SHA512', checksum, licence: license }
  })
}

function components(inputs: SbomInputs): Component[] {
  const { lock, firmware } = inputs
  const licence = 'NOASSERTION' // Debian's is a file of its own format in each package
  const debs = [...lock.packages.filter(each => each.for.includes('image')), firmware.package]
  return [
    ...debs.map(({ name, version, sha256 }): Component => {
      return { name, version, purl: debian(name, version), algorithm: 'SHA256', checksum: sha256, licence }
    }),
    ...npmComponents(inputs),
  ]
}

/** The same inputs give the same text. */
export function sbom(inputs: SbomInputs): string {
  const { lock, profile, version } = inputs
  const found = components(inputs)
  const product = productOf(profile)
  const packages = found.map(({ name, version: its, purl, algorithm, checksum, licence }, at) => ({
    SPDXID: `SPDXRef-Package-${at + 1}`,
    name,
    versionInfo: its,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    licenseDeclared: licence,
    copyrightText: 'NOASSERTION',
    checksums: [{ algorithm, checksumValue: checksum }],
    externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl }],
  }))
  const image = {
    SPDXID: 'SPDXRef-Image',
    name: product,
    versionInfo: version,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    licenseDeclared: 'Apache-2.0',
    copyrightText: 'NOASSERTION',
  }
  const relationship = (spdxElementId: string, relationshipType: string, relatedSpdxElement: string) => {
    return { spdxElementId, relationshipType, relatedSpdxElement }
  }
  const document = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${product}-${version}`,
    documentNamespace: `urn:sha256:${sha256Hex(JSON.stringify([product, version, found]))}`,
    creationInfo: {
      created: new Date(lock.epoch * 1000).toISOString().replace('.000', ''),
      creators: ['Tool: vm-image'],
    },
    packages: [image, ...packages],
    relationships: [
      relationship('SPDXRef-DOCUMENT', 'DESCRIBES', image.SPDXID),
      ...packages.map(({ SPDXID }) => relationship(image.SPDXID, 'CONTAINS', SPDXID)),
    ],
  }
  return `${JSON.stringify(document, null, 1)}\n`
}
