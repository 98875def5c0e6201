/** Fuzzes documents of images, records of the store, and accounts of images. */
import {fuzz} from './fuzzer.ts';

fuzz('documents', 1500);
fuzz('records', 1500);
fuzz('accounts', 1500);
