/** Documents of images and of the store, and what an image says of its users. */
import {fuzz} from './fuzzer.ts';

fuzz('documents', 1500);
fuzz('records', 1500);
fuzz('accounts', 1500);
