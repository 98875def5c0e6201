/** Entry point for OCI types: references, digests, descriptors, manifests, platforms. */
export * from './lib/oci/descriptor.ts';
export {digestOf, verifyBytes} from './lib/oci/hash.ts';
export * from './lib/oci/identifier.ts';
export * from './lib/oci/manifest.ts';
export * from './lib/oci/mediatypes.ts';
export * from './lib/oci/platform.ts';
export * from './lib/oci/reference.ts';
